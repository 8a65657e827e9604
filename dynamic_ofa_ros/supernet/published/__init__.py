"""Published supernets and networks: names, downloads, level files."""
