"""Design time: data, measurements and the choice of levels."""
