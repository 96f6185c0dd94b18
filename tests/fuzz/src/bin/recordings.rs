//! The engine around one target.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| faultline_fuzz::recordings(input));
