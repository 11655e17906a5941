//! Every fixed limit of ActaDB in one place.
//!
//! What an operator may choose stands in the configuration; the numbers here bound what no
//! configuration may exceed, and size the queues. "Put a limit on everything" is TigerBeetle's
//! rule (`docs/TIGER_STYLE.md`).

/// Longest stream id, in bytes of UTF-8.
pub const STREAM_ID_MAX_BYTES: usize = 255;
/// Longest event name, in bytes of UTF-8.
pub const EVENT_NAME_MAX_BYTES: usize = 255;
/// Most events in one transaction.
pub const TRANSACTION_MAX_EVENTS: usize = 65_536;
/// Default of `append.max_transaction_bytes`: the largest transaction, as
/// [`size_bytes`](crate::transaction::Transaction::size_bytes) counts it.
pub const TRANSACTION_MAX_BYTES: u64 = 16 << 20;
/// What one event is charged on top of its stream id, name, payload and metadata: an upper bound
/// of what the record and the frame add.
pub const EVENT_OVERHEAD_BYTES: u64 = 96;

/// Default of `segment.size_bytes`.
pub const SEGMENT_DEFAULT_BYTES: u64 = 256 << 20;
/// Smallest segment.
pub const SEGMENT_MIN_BYTES: u64 = 1 << 20;
/// Largest segment: places inside a segment are 32 bits wide.
pub const SEGMENT_MAX_BYTES: u64 = 2 << 30;
/// Space is allocated ahead of the write position in steps of this many bytes.
pub const ALLOCATION_STEP_BYTES: u64 = 16 << 20;
/// Default of `segment.zero_fill_bytes`: how far ahead of the write position an allocated segment
/// is filled with zeros.
pub const ZERO_FILL_DEFAULT_BYTES: u64 = 256 << 10;
/// Largest `segment.zero_fill_bytes`: the sync behind a fill waits for all of it.
pub const ZERO_FILL_MAX_BYTES: u64 = 16 << 20;
/// A transaction takes at most this fraction (one over n) of a segment.
pub const SEGMENT_TRANSACTION_FRACTION: u64 = 4;
/// Full segments of one bucket that may wait for their index before proposals wait, too.
pub const FULL_SEGMENTS_MAX: usize = 2;
/// The synced index is saved to the meta slots at least once per this many bytes of log.
pub const SLOT_SAVE_BYTES: u64 = 16 << 20;
/// The synced index is saved after a bucket was idle for this long, in nanoseconds.
pub const SLOT_SAVE_IDLE_NS: u64 = 1_000_000_000;
/// A failed allocation, or a write that found no space, is tried again after this long, in
/// nanoseconds.
pub const NO_ROOM_RETRY_NS: u64 = 1_000_000_000;

/// Bodies of one entry are closed at this size even if more proposals wait, unless a single
/// proposal is larger.
pub const ENTRY_TARGET_BYTES: usize = 4 << 20;
/// An entry of this many proposals waits for no others: one sync for 64 is cheap for each.
pub const GATHER_MAX_PROPOSALS: usize = 64;
/// Committed entries kept in memory per bucket for readers, in bytes.
pub const TAIL_BYTES: usize = 8 << 20;
/// How much a scan reads from a segment at a time, in bytes.
pub const READ_CHUNK_BYTES: usize = 256 << 10;

/// Default of `read.open_files`: segments and indexes kept open to read. Half of what a process may
/// have open by default on Linux, beside its connections.
pub const OPEN_FILES_DEFAULT: usize = 512;
/// Default of `cache.index_bytes`: blocks of sealed indexes kept in memory.
pub const INDEX_CACHE_DEFAULT_BYTES: usize = 32 << 20;
/// Pages of more events are read by the threads that read, wherever their bytes are.
pub const INLINE_READ_EVENTS: usize = 1000;
/// Decisions that ask for more streams and event ids send the question to the threads that read.
pub const INLINE_KEYS: usize = 64;
/// Most bytes of the system's cache that are read where a command is handled, before the read is
/// handed to a thread that reads.
pub const INLINE_READ_BYTES: usize = 512 << 10;

/// A replica counts time in ticks of this many nanoseconds.
pub const TICK_NS: u64 = 50_000_000;
/// A follower that hears nothing of its leader for this many ticks, or up to twice as many, begins
/// an election.
pub const ELECTION_TICKS: usize = 10;
/// A leader tells that it is there every so many ticks.
pub const HEARTBEAT_TICKS: usize = 2;
/// A leader whose disk has not answered, or found no space, for this long hands over, in
/// nanoseconds.
pub const STUCK_NS: u64 = 2_000_000_000;
/// Bytes of entries in one message to a follower; a larger entry goes alone.
pub const PEER_MESSAGE_BYTES: u64 = 1 << 20;
/// Messages with entries on their way to one follower.
pub const PEER_IN_FLIGHT: usize = 64;
/// Bytes of committed entries that a replica of several keeps per bucket, for those that are a
/// little behind.
pub const PEER_KEPT_BYTES: usize = 8 << 20;

/// Bytes that may wait to be sent to one node.
pub const LANE_BYTES: usize = 64 << 20;
/// Messages that may wait to be sent to one node.
pub const LANE_FRAMES: usize = 8192;
/// How far the clocks of two nodes may be apart before it is told as trouble, in milliseconds: the
/// bound of CockroachDB. Nothing is lost by it: timestamps of events are as wrong as the clock of
/// the leader, that is all.
pub const CLOCKS_APART_MAX_MS: u64 = 500;
/// Messages from all other nodes that may wait to be read.
pub const PEER_EVENTS: usize = 1024;
/// Appends of other nodes that are under way on one that leads.
pub const FORWARDED_MAX: usize = 16_384;
/// Largest transaction in a cluster: it travels in one message, and in one entry.
pub const FORWARDED_MAX_BYTES: u64 = 64 << 20;
/// Questions for what is committed that wait for one bucket.
pub const READS_WAITING: usize = 1024;
/// Messages of other replicas that wait for one bucket.
pub const BUCKET_INBOX: usize = 4096;
/// Most nodes of a cluster.
pub const NODES_MAX: u8 = 9;

/// Most partitions of a database.
pub const PARTITIONS_MAX: u16 = 4096;
/// Default of `partition.count`.
pub const PARTITIONS_DEFAULT: u16 = 32;
/// Most buckets of a database.
pub const BUCKETS_MAX: u16 = 256;

/// Most events in one page of a scan.
pub const PAGE_MAX_EVENTS: usize = 10_000;
/// Events in one page of a scan when the caller does not say.
pub const PAGE_DEFAULT_EVENTS: usize = 100;
/// Most bytes of events in one page; a larger event comes alone.
pub const PAGE_MAX_BYTES: usize = 16 << 20;

/// Default of `append.permit_bytes`: request bytes of appends in flight per bucket.
pub const PERMIT_BYTES_DEFAULT: u64 = 64 << 20;
/// Least permit taken by one transaction. With the permits this bounds the messages in any queue
/// inside a bucket.
pub const PERMIT_MIN_BYTES: u64 = 512;

/// Events that a subscription reads at a time.
pub const FOLLOW_EVENTS: usize = 1024;
/// Bytes of events that a subscription reads at a time; a larger event comes alone.
pub const FOLLOW_BYTES: usize = 256 << 10;
/// Most subscriptions of one connection.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 16_384;
/// Most subscriptions of all connections.
pub const SUBSCRIPTIONS_MAX: u64 = 200_000;
/// Most streams of one subscription.
pub const SUBSCRIPTION_STREAMS_MAX: usize = 1024;
/// Most event names of one subscription's filter.
pub const SUBSCRIPTION_NAMES_MAX: usize = 256;
/// Largest window of a subscription, in events.
pub const WINDOW_MAX: u32 = 1_000_000;
/// Skipped events after which a subscription tells its progress, when the reader does not say.
pub const PROGRESS_EVENTS_DEFAULT: u64 = 10_000;
/// A subscription tells its progress when it skipped an event this long ago and told nothing since,
/// in nanoseconds.
pub const PROGRESS_NS: u64 = 1_000_000_000;

/// Latest timestamp a client may give, in milliseconds: later ones do not fit into nanoseconds,
/// and a larger number can only be a mistaken unit.
pub const TIMESTAMP_MAX_MS: u64 = u64::MAX / 1_000_000;
