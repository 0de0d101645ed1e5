"""Mails: made from views, without a server; delivered by whoever has one."""
