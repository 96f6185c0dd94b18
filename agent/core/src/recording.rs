//! Recordings: the events behind the decoder, and the ticks, as length-delimited protobuf messages.
