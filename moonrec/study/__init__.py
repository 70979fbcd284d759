"""What experiments of many cells share: a folder that grows, records of cells, settings, pages and tables."""
