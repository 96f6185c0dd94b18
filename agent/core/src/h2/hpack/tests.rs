//! RFC 7541 examples.
