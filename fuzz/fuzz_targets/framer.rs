//! Fuzzes [`actadb_properties::framer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::framer::check(data));
