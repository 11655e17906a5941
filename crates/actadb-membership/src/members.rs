//! The members of a static cluster as one node sees them.

use std::collections::BTreeMap;

use actadb_model::probe::{Mistake, made};
use uuid::Uuid;

use crate::record::{Hello, PROTOCOL_VERSION, Record, Shape, Start};

/// Why a node is not let in. The words are for an operator of either node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It speaks another protocol.
    #[error("node {node} speaks protocol {theirs}, this node speaks {ours}")]
    Protocol {
        /// The node.
        node: u8,
        /// Its version.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// There is no such node.
    #[error("there is no node {node}: the cluster has nodes 0 to {last}")]
    NoSuchNode {
        /// The node.
        node: u8,
        /// The highest there is.
        last: u8,
    },
    /// It has this node's own number.
    #[error("two nodes say that they are node {0}: one of them has the wrong --node-index")]
    SameNumber(u8),
    /// It was configured otherwise.
    #[error("node {node} was configured with {theirs:?}, this node with {ours:?}")]
    Shape {
        /// The node.
        node: u8,
        /// Its values.
        theirs: Shape,
        /// Ours.
        ours: Shape,
    },
    /// It belongs to another cluster.
    #[error("node {node} belongs to cluster {theirs}, this node to {ours}; nothing is changed")]
    OtherCluster {
        /// The node.
        node: u8,
        /// Its cluster.
        theirs: Uuid,
        /// Ours.
        ours: Uuid,
    },
    /// It came with another storage than the one that was written down.
    #[error(
        "node {node} came with storage {theirs}, the cluster knows it with {ours}: its disk was \
         wiped or replaced, and it must not come back as the node it was"
    )]
    OtherStorage {
        /// The node.
        node: u8,
        /// Its storage now.
        theirs: Uuid,
        /// Its storage when the cluster was formed.
        ours: Uuid,
    },
    /// A later start of the same storage was seen.
    #[error(
        "node {node} came with start {theirs} of its storage, and start {ours} was seen: it is a \
         restored copy, or an older process that still runs"
    )]
    OlderStart {
        /// The node.
        node: u8,
        /// The start it tells.
        theirs: u64,
        /// The one that was seen.
        ours: u64,
    },
    /// It was started more often than was seen, and not from there.
    #[error(
        "node {node} came with start {theirs} of its storage, and start {ours} that was seen is \
         not in its history: it is a restored copy that was started again since"
    )]
    OtherHistory {
        /// The node.
        node: u8,
        /// The start it tells.
        theirs: u64,
        /// The one that was seen.
        ours: u64,
    },
    /// Two processes run the same start.
    #[error("two processes run node {node}: the directory of one is a copy of the other's")]
    TwoProcesses {
        /// The node.
        node: u8,
    },
}

/// Who belongs to the cluster.
///
/// Invariant: no storage but the one in the record is ever let in.
#[derive(Debug)]
pub struct Members {
    ours: Hello,
    record: Option<Record>,
    seen: BTreeMap<u8, Hello>,
    /// By number of the node: its highest start that was seen in any life of this one.
    starts: Vec<Start>,
}

impl Members {
    /// What this node says of itself, and what it has written down.
    #[must_use]
    pub fn new(ours: Hello, record: Option<Record>) -> Self {
        let ours = Hello { cluster: record.as_ref().map(|record| record.cluster), ..ours };
        let starts = vec![Start::default(); usize::from(ours.shape.nodes)];
        Self { ours, record, seen: BTreeMap::new(), starts }
    }

    /// With the starts of other nodes that lives of before have written down.
    #[must_use]
    pub fn with_starts(mut self, starts: &[Start]) -> Self {
        for (known, start) in self.starts.iter_mut().zip(starts) {
            *known = *start;
        }
        self
    }

    /// The highest start that was seen of each node, by number. To be written down: a copy of a
    /// node's directory that is older than what anyone saw must not come back as that node, however
    /// often it was started since, and even if all others were restarted.
    #[must_use]
    pub fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// How this node introduces itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.ours
    }

    /// What was fixed when the cluster was formed; `None` before.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The last introduction of each other node that was let in.
    #[must_use]
    pub fn seen(&self) -> &BTreeMap<u8, Hello> {
        &self.seen
    }

    /// Nodes that this one waits for before the cluster can be formed.
    #[must_use]
    pub fn missing(&self) -> Vec<u8> {
        let all = 0..self.ours.shape.nodes;
        all.filter(|node| *node != self.ours.node && !self.seen.contains_key(node)).collect()
    }

    /// A node introduces itself.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn admit(&mut self, hello: &Hello) -> Result<(), Refusal> {
        let (node, ours) = (hello.node, &self.ours);
        if hello.protocol != PROTOCOL_VERSION {
            let (theirs, ours) = (hello.protocol, PROTOCOL_VERSION);
            return Err(Refusal::Protocol { node, theirs, ours });
        }
        if hello.shape != ours.shape {
            let (theirs, ours) = (hello.shape, ours.shape);
            return Err(Refusal::Shape { node, theirs, ours });
        }
        if node >= ours.shape.nodes {
            return Err(Refusal::NoSuchNode { node, last: ours.shape.nodes.saturating_sub(1) });
        }
        if node == ours.node {
            return Err(Refusal::SameNumber(node));
        }
        if let Some(record) = &self.record {
            if let Some(theirs) = hello.cluster.filter(|theirs| *theirs != record.cluster) {
                let ours = record.cluster;
                return Err(Refusal::OtherCluster { node, theirs, ours });
            }
            let known = record.storages.get(usize::from(node)).copied().unwrap_or_default();
            if hello.storage != known && !made(Mistake::WipedDiskAdmitted) {
                let theirs = hello.storage;
                return Err(Refusal::OtherStorage { node, theirs, ours: known });
            }
        }
        if let Some(before) = self.seen.get(&node) {
            let (theirs, ours) = (hello.boot, before.boot);
            if before.storage == hello.storage && theirs < ours {
                return Err(Refusal::OlderStart { node, theirs, ours });
            }
            let same_start = before.storage == hello.storage && theirs == ours;
            if same_start && before.process != hello.process {
                return Err(Refusal::TwoProcesses { node });
            }
        }
        let seen = self.starts.get(usize::from(node)).copied().unwrap_or_default();
        let Some(since) = hello.boot.checked_sub(seen.boot) else {
            return Err(Refusal::OlderStart { node, theirs: hello.boot, ours: seen.boot });
        };
        // What the node was at the start that was seen: it must have been the same process.
        let then = match usize::try_from(since).unwrap_or(usize::MAX) {
            0 => Some(hello.process),
            since => hello.history.iter().rev().nth(since).copied(),
        };
        if seen.boot > 0 && then.is_some_and(|process| process != seen.process) {
            return Err(Refusal::OtherHistory { node, theirs: hello.boot, ours: seen.boot });
        }
        self.seen.insert(node, hello.clone());
        // Before the cluster is formed a node may still become another one.
        if let (Some(_), Some(seen)) = (&self.record, self.starts.get_mut(usize::from(node))) {
            *seen = Start { boot: hello.boot, process: hello.process };
        }
        Ok(())
    }

    /// What the cluster would be, if it is this node's to form it and it has heard of all others:
    /// of a node that belongs to a cluster already it must not. `cluster` is drawn by the caller,
    /// who writes the record down and then [takes it over](Self::formed).
    #[must_use]
    pub fn found(&self, cluster: Uuid) -> Option<Record> {
        let others_are_new = self.seen.values().all(|hello| hello.cluster.is_none());
        if self.ours.node != 0
            || self.record.is_some()
            || !self.missing().is_empty()
            || !others_are_new
        {
            return None;
        }
        let storage = |node: u8| match self.seen.get(&node) {
            Some(hello) => hello.storage,
            None => self.ours.storage,
        };
        Some(Record {
            cluster,
            shape: self.ours.shape,
            storages: (0..self.ours.shape.nodes).map(storage).collect(),
        })
    }

    /// Another node tells that the cluster was formed. Answers whether it is news that this node
    /// must write down.
    ///
    /// # Errors
    /// When this node is not the one that is meant.
    pub fn formed(&mut self, record: Record) -> Result<bool, Refusal> {
        let (node, ours) = (self.ours.node, self.ours.shape);
        if let Some(known) = &self.record {
            if known.cluster == record.cluster {
                return Ok(false);
            }
            let (theirs, ours) = (record.cluster, known.cluster);
            return Err(Refusal::OtherCluster { node, theirs, ours });
        }
        if record.shape != ours {
            return Err(Refusal::Shape { node, theirs: record.shape, ours });
        }
        let known = record.storages.get(usize::from(node)).copied().unwrap_or_default();
        if known != self.ours.storage {
            let theirs = self.ours.storage;
            return Err(Refusal::OtherStorage { node, theirs, ours: known });
        }
        self.ours.cluster = Some(record.cluster);
        self.record = Some(record);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u8) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            version: "0.1.0".into(),
            node,
            shape: Shape { nodes: 3, partitions: 32, buckets: 1, segment_bytes: 1 << 28 },
            storage: Uuid::from_u128(100 + u128::from(node)),
            boot: 1,
            process: 7 + u64::from(node),
            history: Vec::new(),
            cluster: None,
            client_address: String::new(),
        }
    }

    fn formed() -> (Members, Record) {
        let mut members = Members::new(hello(0), None);
        assert_eq!(members.missing(), [1, 2]);
        members.admit(&hello(1)).expect("let in");
        assert!(members.found(Uuid::from_u128(1)).is_none(), "node 2 is missing");
        members.admit(&hello(2)).expect("let in");
        let record = members.found(Uuid::from_u128(1)).expect("all are here");
        assert_eq!(members.formed(record.clone()), Ok(true));
        (members, record)
    }

    #[test]
    fn a_cluster_is_formed_once_by_node_0_when_all_are_there() {
        let (founder, record) = formed();
        assert_eq!(record.storages, [100, 101, 102].map(Uuid::from_u128));
        assert!(founder.found(Uuid::from_u128(2)).is_none(), "only once");
        let mut other = Members::new(hello(1), None);
        assert!(other.found(Uuid::from_u128(2)).is_none(), "only node 0");
        assert_eq!(other.formed(record.clone()), Ok(true));
        assert_eq!(other.formed(record), Ok(false));
        assert_eq!(other.hello().cluster, Some(Uuid::from_u128(1)));
    }

    #[test]
    fn a_wiped_node_is_refused_and_a_wiped_founder_founds_nothing() {
        let (mut members, record) = formed();
        let wiped = Hello { storage: Uuid::from_u128(999), ..hello(1) };
        let refused = members.admit(&wiped).expect_err("refused");
        assert!(refused.to_string().contains("wiped or replaced"), "{refused}");
        let mut wiped = Members::new(wiped, None);
        assert!(matches!(wiped.formed(record), Err(Refusal::OtherStorage { node: 1, .. })));

        let mut founder = Members::new(Hello { storage: Uuid::from_u128(999), ..hello(0) }, None);
        for node in [1, 2] {
            let member = Hello { cluster: Some(Uuid::from_u128(1)), ..hello(node) };
            founder.admit(&member).expect("it is who it says");
        }
        assert!(founder.found(Uuid::from_u128(2)).is_none(), "the others have a cluster");
    }

    #[test]
    fn a_start_that_was_seen_in_an_earlier_life_is_not_forgotten() {
        let (mut members, record) = formed();
        let start = |boot: u64, history: &[u64]| {
            let process = *history.last().expect("one start at least");
            Hello { boot, process, history: history.to_vec(), ..hello(1) }
        };
        members.admit(&start(5, &[40, 50])).expect("a restart");
        let mut later = Members::new(hello(0), Some(record)).with_starts(members.starts());
        let refused = later.admit(&start(4, &[30, 41])).expect_err("restored from a backup");
        assert!(matches!(refused, Refusal::OlderStart { node: 1, theirs: 4, ours: 5 }));
        // However often it is started again; its first start has the number that was seen.
        for (boot, history) in
            [(5, [30, 41, 51].as_slice()), (6, &[30, 41, 51, 61]), (6, &[51, 61])]
        {
            let refused = later.admit(&start(boot, history)).expect_err("the same copy");
            let Refusal::OtherHistory { node: 1, theirs, ours: 5 } = refused else {
                panic!("{refused}")
            };
            assert_eq!(theirs, boot);
        }
        later.admit(&start(5, &[40, 50])).expect("the process that was seen");
        later.admit(&start(7, &[40, 50, 60, 70])).expect("the node itself, a start was missed");
        assert_eq!(later.starts()[1], Start { boot: 7, process: 70 });
        later.admit(&start(500, &[1, 2])).expect("too long ago to tell");
    }

    #[test]
    fn strangers_copies_and_doubles_are_refused() {
        let (mut members, _) = formed();
        let other = Hello { cluster: Some(Uuid::from_u128(2)), ..hello(1) };
        assert!(matches!(members.admit(&other), Err(Refusal::OtherCluster { .. })));
        assert!(matches!(members.admit(&hello(0)), Err(Refusal::SameNumber(0))));
        assert!(matches!(members.admit(&hello(3)), Err(Refusal::NoSuchNode { last: 2, .. })));
        let newer = Hello { boot: 5, process: 70, ..hello(1) };
        members.admit(&newer).expect("a restart");
        assert!(matches!(members.admit(&hello(1)), Err(Refusal::OlderStart { .. })));
        let copy = Hello { process: 71, ..newer.clone() };
        assert!(matches!(members.admit(&copy), Err(Refusal::TwoProcesses { node: 1 })));
        members.admit(&newer).expect("the same process connects again");
        let shape = Shape { buckets: 2, ..newer.shape };
        assert!(matches!(members.admit(&Hello { shape, ..newer }), Err(Refusal::Shape { .. })));
        let protocol = Hello { protocol: 9, ..hello(1) };
        assert!(matches!(members.admit(&protocol), Err(Refusal::Protocol { theirs: 9, .. })));
    }
}
