"""Guardian, worker and keepers: the processes that stand by the children, and the channels between them."""
