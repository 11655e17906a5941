//! Fuzzes [`actadb_properties::partition`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::partition::check(data));
