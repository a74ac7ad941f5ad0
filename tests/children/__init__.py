"""Programs that tests run as children or in place of a part."""
