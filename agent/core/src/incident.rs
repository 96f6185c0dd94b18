//! When to page and when an incident is over.
