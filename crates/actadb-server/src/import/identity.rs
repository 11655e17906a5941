//! The ids of imported events: derived from what they are, so that a second import finds them.
//!
//! An id is the UUIDv5 of the event's digest and its ordinal among equal lines, with the 16 bits
//! of its partition key put in. The digest is the UUIDv5 of stream, name, payload, metadata,
//! timestamp and partition key, each behind its length. Changing any of this would double the
//! events of whoever imports a file again: it never changes.

use std::collections::HashMap;

use actadb::model::ids::{hash16, with_hash16};
use uuid::Uuid;

use super::line::Event;

/// Namespace of the digests and ids of imported events.
const IMPORT_NAMESPACE: Uuid = Uuid::from_u128(0x20d43b8c_dfc5_4882_83dc_f40a0387be02);

/// Gives events their ids, in the order of their lines.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// How often each digest occurred.
    seen: HashMap<u128, u32>,
    scratch: Vec<u8>,
}

/// An event's id, and whether bits of a given one were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: Uuid,
    pub(super) adjusted: bool,
}

impl Identities {
    /// The id of the next event.
    pub(super) fn of(&mut self, event: &Event) -> Identity {
        let hash = event.key.hash16();
        if let Some(given) = event.id {
            return Identity { id: with_hash16(given, hash), adjusted: hash16(given) != hash };
        }
        let digest = self.digest(event);
        let count = self.seen.entry(digest.as_u128()).or_insert(0);
        let id = numbered(digest, *count);
        *count = count.saturating_add(1);
        Identity { id: with_hash16(id, hash), adjusted: false }
    }

    fn digest(&mut self, event: &Event) -> Uuid {
        let out = &mut self.scratch;
        out.clear();
        put(out, event.stream.as_str().as_bytes());
        put(out, event.name.as_str().as_bytes());
        put(out, &event.payload);
        put(out, &event.metadata);
        match event.timestamp_ms {
            None => put(out, b""),
            Some(timestamp) => put(out, &timestamp.to_le_bytes()),
        }
        put(out, event.key.uuid().as_bytes());
        Uuid::new_v5(&IMPORT_NAMESPACE, out)
    }
}

/// The `ordinal`th event of a digest, from 0.
fn numbered(digest: Uuid, ordinal: u32) -> Uuid {
    let mut name = [0; 20];
    name[..16].copy_from_slice(digest.as_bytes());
    name[16..].copy_from_slice(&ordinal.to_le_bytes());
    Uuid::new_v5(&IMPORT_NAMESPACE, &name)
}

/// Bytes behind their length: no two lists of fields look alike.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        Event::parse(line.as_bytes()).unwrap()
    }

    fn id(line: &str) -> Uuid {
        Identities::default().of(&event(line)).id
    }

    #[test]
    fn ids_stay_what_they_are() {
        // If this fails, the ids of everything imported so far have changed.
        let line = r#"{"stream":"s","name":"n","payload":"p","metadata":"m","timestamp":1}"#;
        assert_eq!(id(line).to_string(), "a1ebeeb0-846c-5147-a5cb-0d3935649992");
    }

    #[test]
    fn the_same_content_has_the_same_id_however_it_is_written() {
        let plain = id(r#"{"stream":"s","name":"n","payload":{"a":1}}"#);
        assert_eq!(plain, id(r#"{ "payload" : { "a" : 1 }, "name":"\u006e", "stream":"s"}"#));
        let default_key = "b5caaf75-d5ce-5289-a5cb-29de88f7c202";
        let line = format!(
            r#"{{"stream":"s","name":"n","payload":{{"a":1}},"partition_key":"{default_key}"}}"#
        );
        assert_eq!(plain, id(&line));
        assert_eq!(hash16(plain), 38700);
    }

    #[test]
    fn every_field_counts_and_fields_do_not_run_together() {
        let lines = [
            r#"{"stream":"s","name":"n","payload":"ab"}"#,
            r#"{"stream":"s","name":"na","payload":"b"}"#,
            r#"{"stream":"s","name":"n","payload":"a","metadata":"b"}"#,
            r#"{"stream":"sn","name":"a","payload":"b"}"#,
            r#"{"stream":"s","name":"n","payload":"ab","timestamp":0}"#,
            r#"{"stream":"s","name":"n","payload":"ab","timestamp":1}"#,
        ];
        let ids: std::collections::HashSet<_> = lines.iter().map(|line| id(line)).collect();
        assert_eq!(ids.len(), lines.len());
    }

    #[test]
    fn equal_lines_are_told_apart_by_their_ordinal() {
        let (one, two) = (
            event(r#"{"stream":"s","name":"n","payload":1}"#),
            event(r#"{"stream":"s","name":"n","payload":2}"#),
        );
        let order = [&one, &two, &one, &one, &two];
        let ids = || {
            let mut identities = Identities::default();
            order.map(|event| identities.of(event).id)
        };
        let first = ids();
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), order.len());
        assert_eq!(first, ids(), "a second import gives the same ids");
    }

    #[test]
    fn a_given_id_gets_the_bits_of_its_key_and_no_others() {
        let given = "01890a5d-ac96-774b-bcce-b302099a8057";
        let line = format!(r#"{{"stream":"s","name":"n","payload":"","event_id":"{given}"}}"#);
        let identity = Identities::default().of(&event(&line));
        assert!(identity.adjusted);
        assert_eq!(hash16(identity.id), 38700);
        let line = line.replace(given, &identity.id.to_string());
        let again = Identities::default().of(&event(&line));
        assert_eq!(again, Identity { id: identity.id, adjusted: false });
    }
}
