//! Fuzzes [`actadb_properties::sealed_index`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::sealed_index::check(data));
