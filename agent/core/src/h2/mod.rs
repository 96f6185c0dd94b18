//! HTTP/2 as a bystander sees it: segments of one direction in, frames out; tolerant of loss and late joins.
