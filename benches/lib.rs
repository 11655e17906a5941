//! The benches are in `parts.rs`: `cargo bench -p actadb-benches`.
