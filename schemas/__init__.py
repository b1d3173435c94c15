"""The ground floor: the language every room speaks, pure and importing none of the others."""
