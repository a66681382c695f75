"""A round and what surrounds it: who takes part, what is asked, what a reply is checked for."""
