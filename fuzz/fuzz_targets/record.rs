//! Fuzzes [`actadb_properties::record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::record::check(data));
