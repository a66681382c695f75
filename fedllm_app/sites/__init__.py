"""What surrounds Flower's processes in a deployment: keys, certificates, a site's file, approved code, checks."""
