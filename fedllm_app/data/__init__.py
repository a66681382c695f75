"""From files to tokens: sources, readers, schemas, templates, partitions, shards."""
