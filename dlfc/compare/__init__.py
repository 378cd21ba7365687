"""A page that shows photos beside what .dlf files and ordinary files of the same size make of them."""
