"""Query-item relevance: a small calibrated model over what a frozen encoder says of a query and an item."""
