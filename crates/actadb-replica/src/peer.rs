//! What the replicas of a group say to each other, as values and as bytes.
//!
//! No type of the consensus engine goes on the wire: the layout below is ours, so that the engine
//! can be replaced and nodes of two versions understand each other. Integers are little-endian.
//!
//! ```text
//! kind u8, reject u8, entry count u16, context length u32,
//! from, to, term, log_term, index, commit, commit_term, reject_hint: u64 each,
//! context, then per entry: term u64, index u64, kind u8, length u32, body
//! ```

use actadb_model::entry::{Entry, EntryKind};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a message without its context and entries.
const HEAD_BYTES: usize = 8 + 8 * 8;
/// Bytes of an entry without its body.
const ENTRY_HEAD_BYTES: usize = 8 + 8 + 1 + 4;

/// What a message is about: section 5 and figure 2 of the Raft paper (Ongaro and Ousterhout, USENIX
/// ATC 2014), with pre-votes and leadership transfer of Ongaro's thesis (2014, 9.6 and 3.10). The
/// numbers are on the wire: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerKind {
    /// Entries to append behind an index.
    Append = 1,
    /// Whether they were.
    AppendResponse = 2,
    /// A candidate asks for a vote.
    Vote = 3,
    /// The vote.
    VoteResponse = 4,
    /// Would there be a vote? Nothing changes by the question.
    PreVote = 5,
    /// There would, or not.
    PreVoteResponse = 6,
    /// The leader is here; this is committed.
    Heartbeat = 7,
    /// So is the follower.
    HeartbeatResponse = 8,
    /// Begin an election at once: the leader hands over.
    TimeoutNow = 9,
    /// Somebody wants the lead to move.
    TransferLeader = 10,
    /// What is committed at this moment?
    ReadIndex = 11,
    /// At that moment this was.
    ReadIndexResponse = 12,
}

impl PeerKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Append,
        Self::AppendResponse,
        Self::Vote,
        Self::VoteResponse,
        Self::PreVote,
        Self::PreVoteResponse,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::TimeoutNow,
        Self::TransferLeader,
        Self::ReadIndex,
        Self::ReadIndexResponse,
    ];

    fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == value)
    }
}

/// One message between two replicas of a group. Which fields mean something depends on the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// What it is about.
    pub kind: PeerKind,
    /// Who sends it.
    pub from: u64,
    /// Who is to get it.
    pub to: u64,
    /// The sender's term; 0 in a read's question.
    pub term: u64,
    /// Term of the entry at `index`.
    pub log_term: u64,
    /// The entry before `entries`, or the last one that matches.
    pub index: u64,
    /// The sender's commit index.
    pub commit: u64,
    /// Term of that entry, in votes.
    pub commit_term: u64,
    /// The answer is no.
    pub reject: bool,
    /// Where the two logs may agree.
    pub reject_hint: u64,
    /// What a read's answer must carry back.
    pub context: Bytes,
    /// Entries to append.
    pub entries: Vec<Entry>,
}

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPeerMessage(pub &'static str);

impl std::fmt::Display for BadPeerMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a message between replicas: {}", self.0)
    }
}

impl std::error::Error for BadPeerMessage {}

impl PeerMessage {
    /// The message as bytes.
    ///
    /// # Panics
    /// With more than 65,535 entries: the engine's limit in bytes keeps far below.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let bodies: usize = self.entries.iter().map(|e| ENTRY_HEAD_BYTES + e.body.len()).sum();
        let mut out = BytesMut::with_capacity(HEAD_BYTES + self.context.len() + bodies);
        out.put_u8(self.kind as u8);
        out.put_u8(u8::from(self.reject));
        out.put_u16_le(u16::try_from(self.entries.len()).expect("messages are bounded"));
        out.put_u32_le(u32::try_from(self.context.len()).expect("contexts are short"));
        for number in [
            self.from,
            self.to,
            self.term,
            self.log_term,
            self.index,
            self.commit,
            self.commit_term,
            self.reject_hint,
        ] {
            out.put_u64_le(number);
        }
        out.put_slice(&self.context);
        for entry in &self.entries {
            out.put_u64_le(entry.term);
            out.put_u64_le(entry.index);
            out.put_u8(entry.kind as u8);
            out.put_u32_le(u32::try_from(entry.body.len()).expect("a body fits into a segment"));
            out.put_slice(&entry.body);
        }
        out.freeze()
    }

    /// Reads a message; bodies share its bytes.
    ///
    /// # Errors
    /// When it is cut short, too long, or of an unknown kind.
    pub fn decode(mut bytes: Bytes) -> Result<Self, BadPeerMessage> {
        if bytes.len() < HEAD_BYTES {
            return Err(BadPeerMessage("too short"));
        }
        let kind = PeerKind::from_u8(bytes.get_u8()).ok_or(BadPeerMessage("an unknown kind"))?;
        let reject = match bytes.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(BadPeerMessage("neither yes nor no")),
        };
        let count = bytes.get_u16_le();
        let context_bytes = bytes.get_u32_le() as usize;
        let mut number = || bytes.get_u64_le();
        let (from, to, term, log_term) = (number(), number(), number(), number());
        let (index, commit, commit_term, reject_hint) = (number(), number(), number(), number());
        if bytes.len() < context_bytes {
            return Err(BadPeerMessage("cut in its context"));
        }
        let context = bytes.split_to(context_bytes);
        let entries = (0..count).map(|_| entry(&mut bytes)).collect::<Result<Vec<_>, _>>()?;
        if !bytes.is_empty() {
            return Err(BadPeerMessage("bytes behind its end"));
        }
        Ok(Self {
            kind,
            from,
            to,
            term,
            log_term,
            index,
            commit,
            commit_term,
            reject,
            reject_hint,
            context,
            entries,
        })
    }
}

fn entry(bytes: &mut Bytes) -> Result<Entry, BadPeerMessage> {
    if bytes.len() < ENTRY_HEAD_BYTES {
        return Err(BadPeerMessage("cut in an entry"));
    }
    let (term, index) = (bytes.get_u64_le(), bytes.get_u64_le());
    let kind = EntryKind::from_u8(bytes.get_u8());
    let kind = kind.ok_or(BadPeerMessage("an entry of an unknown kind"))?;
    let length = bytes.get_u32_le() as usize;
    if bytes.len() < length {
        return Err(BadPeerMessage("cut in a body"));
    }
    Ok(Entry { term, index, kind, body: bytes.split_to(length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: PeerKind) -> PeerMessage {
        let entry = |index, kind, body: &'static [u8]| Entry {
            term: 3,
            index,
            kind,
            body: Bytes::from_static(body),
        };
        PeerMessage {
            kind,
            from: 1,
            to: u64::MAX,
            term: 4,
            log_term: 3,
            index: 8,
            commit: 7,
            commit_term: 2,
            reject: true,
            reject_hint: 5,
            context: Bytes::from_static(b"read 9"),
            entries: vec![
                entry(9, EntryKind::Noop, b""),
                entry(10, EntryKind::Batch, b"records"),
                entry(11, EntryKind::Conf, b"c"),
            ],
        }
    }

    #[test]
    fn messages_are_read_back_and_cut_ones_are_not() {
        for kind in PeerKind::ALL {
            let message = message(kind);
            let bytes = message.encode();
            assert_eq!(PeerMessage::decode(bytes.clone()), Ok(message));
            for length in 0..bytes.len() {
                assert!(PeerMessage::decode(bytes.slice(..length)).is_err(), "cut at {length}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert!(PeerMessage::decode(longer.into()).is_err());
        }
    }

    #[test]
    fn what_is_not_a_message_is_an_error() {
        let bytes = message(PeerKind::Append).encode();
        for at in 0..bytes.len() {
            for value in [0, 1, 127, 255] {
                let mut other = bytes.to_vec();
                other[at] = value;
                // Either another message or an error, and no panic.
                let _ = PeerMessage::decode(other.into());
            }
        }
    }
}
