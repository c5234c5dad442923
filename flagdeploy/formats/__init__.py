"""File formats that several adapters read, each as data: nothing in a file is executed."""
