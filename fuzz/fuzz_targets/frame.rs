//! Fuzzes [`actadb_properties::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::frame::check(data));
