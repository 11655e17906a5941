//! Fuzzes [`actadb_properties::recovery`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::recovery::check(data));
