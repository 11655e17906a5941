//! Fuzzes [`actadb_properties::command`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actadb_properties::command::check(data));
