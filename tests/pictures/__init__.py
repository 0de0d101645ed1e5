"""Pictures of what users see, to be looked at: `make screenshots`, `make mails`."""
