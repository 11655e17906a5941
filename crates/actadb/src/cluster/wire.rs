//! Appends and their answers between nodes, as bytes. Integers are little-endian; what has a length
//! begins with it, as `u32`. Errors travel whole: a conflict told by the leader is told in the same
//! words to the client of another node.

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::names::{EventName, StreamId};
use actadb_model::outcome::{
    AppendError, AppendResult, Appended, AppendedEvent, ClosedReason, Refusal, Unknown,
};
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Appends of one connection to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendRequest {
    /// Names it to the sender.
    pub(crate) token: u64,
    /// The partition.
    pub(crate) partition: PartitionId,
    /// The connection: its appends keep their order.
    pub(crate) connection: u64,
    /// What to append, at least one.
    pub(crate) transactions: Vec<Transaction>,
}

/// Their results, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendResponse {
    /// Which request.
    pub(crate) token: u64,
    /// One per transaction.
    pub(crate) results: Vec<AppendResult>,
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("requests are bounded"));
    out.put_slice(bytes);
}

fn put_uuid(out: &mut BytesMut, id: Uuid) {
    out.put_slice(id.as_bytes());
}

fn put_option(out: &mut BytesMut, value: Option<u64>) {
    out.put_u8(u8::from(value.is_some()));
    out.put_u64_le(value.unwrap_or(0));
}

/// Takes values off the front of a message; `None` when it is not one.
struct Take(Bytes);

impl Take {
    fn bytes_of(&mut self, count: usize) -> Option<Bytes> {
        (self.0.len() >= count).then(|| self.0.split_to(count))
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes_of(1).map(|mut bytes| bytes.get_u8())
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes_of(2).map(|mut bytes| bytes.get_u16_le())
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes_of(4).map(|mut bytes| bytes.get_u32_le())
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes_of(8).map(|mut bytes| bytes.get_u64_le())
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()? as usize;
        self.bytes_of(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn uuid(&mut self) -> Option<Uuid> {
        Uuid::from_slice(&self.bytes_of(16)?).ok()
    }

    fn option(&mut self) -> Option<Option<u64>> {
        let there = self.u8()?;
        let value = self.u64()?;
        (there < 2).then_some((there == 1).then_some(value))
    }

    fn stream(&mut self) -> Option<StreamId> {
        StreamId::new(&self.text()?).ok()
    }

    fn expected(&mut self) -> Option<ExpectedVersion> {
        let (tag, version) = (self.u8()?, self.u64()?);
        Some(match tag {
            0 => ExpectedVersion::Any,
            1 => ExpectedVersion::Exists,
            2 => ExpectedVersion::Empty,
            3 => ExpectedVersion::Exact(version),
            _ => return None,
        })
    }

    /// So many values, none of which takes no bytes.
    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        (count <= self.0.len()).then_some(())?;
        (0..count).map(|_| one(self)).collect()
    }
}

fn put_expected(out: &mut BytesMut, expected: ExpectedVersion) {
    let (tag, version) = match expected {
        ExpectedVersion::Any => (0, 0),
        ExpectedVersion::Exists => (1, 0),
        ExpectedVersion::Empty => (2, 0),
        ExpectedVersion::Exact(version) => (3, version),
    };
    out.put_u8(tag);
    out.put_u64_le(version);
}

impl AppendRequest {
    pub(crate) fn encode(&self) -> Bytes {
        let size: u64 = self.transactions.iter().map(Transaction::size_bytes).sum();
        let mut out = BytesMut::with_capacity(64 + size as usize);
        out.put_u64_le(self.token);
        out.put_u16_le(self.partition.0);
        out.put_u64_le(self.connection);
        out.put_u32_le(self.transactions.len() as u32);
        for transaction in &self.transactions {
            put_uuid(&mut out, transaction.partition_key().uuid());
            out.put_u8(u8::from(transaction.is_durable()));
            out.put_u32_le(transaction.events().len() as u32);
            for event in transaction.events() {
                put_bytes(&mut out, event.stream.as_str().as_bytes());
                put_bytes(&mut out, event.name.as_str().as_bytes());
                out.put_u8(u8::from(event.id.is_some()));
                put_uuid(&mut out, event.id.unwrap_or_default());
                put_expected(&mut out, event.expected);
                put_option(&mut out, event.timestamp_ms);
                put_bytes(&mut out, &event.payload);
                put_bytes(&mut out, &event.metadata);
            }
        }
        out.freeze()
    }

    pub(crate) fn decode(bytes: Bytes) -> Option<Self> {
        let mut take = Take(bytes);
        let (token, partition) = (take.u64()?, PartitionId(take.u16()?));
        let connection = take.u64()?;
        let transactions = take.list(transaction)?;
        take.0.is_empty().then_some(Self { token, partition, connection, transactions })
    }
}

fn transaction(take: &mut Take) -> Option<Transaction> {
    let key = PartitionKey::new(take.uuid()?);
    let durable = take.u8()? == 1;
    let events = take.list(|take| {
        let (stream, name) = (take.stream()?, EventName::new(&take.text()?).ok()?);
        let has_id = take.u8()? == 1;
        let id = take.uuid()?;
        let expected = take.expected()?;
        let timestamp_ms = take.option()?;
        let (payload, metadata) = (take.bytes()?, take.bytes()?);
        let id = has_id.then_some(id);
        Some(NewEvent { stream, name, id, expected, timestamp_ms, payload, metadata })
    })?;
    Some(Transaction::new(key, events).ok()?.durable(durable))
}

impl AppendResponse {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64_le(self.token);
        out.put_u32_le(self.results.len() as u32);
        for result in &self.results {
            match result {
                Ok(appended) => {
                    out.put_u8(0);
                    put_appended(&mut out, appended);
                }
                Err(AppendError::Unknown(Unknown::Uncertain)) => out.put_u8(1),
                Err(AppendError::Unknown(Unknown::Timeout)) => out.put_u8(2),
                Err(AppendError::Refused(refusal)) => {
                    out.put_u8(3);
                    put_refusal(&mut out, refusal);
                }
            }
        }
        out.freeze()
    }

    pub(crate) fn decode(bytes: Bytes) -> Option<Self> {
        let mut take = Take(bytes);
        let token = take.u64()?;
        let results = take.list(|take| {
            Some(match take.u8()? {
                0 => Ok(appended(take)?),
                1 => Err(Unknown::Uncertain.into()),
                2 => Err(Unknown::Timeout.into()),
                3 => Err(refusal(take)?.into()),
                _ => return None,
            })
        })?;
        take.0.is_empty().then_some(Self { token, results })
    }
}

fn put_appended(out: &mut BytesMut, appended: &Appended) {
    put_uuid(out, appended.partition_key.uuid());
    out.put_u16_le(appended.partition.0);
    put_uuid(out, appended.transaction_id);
    out.put_u64_le(appended.first_sequence);
    out.put_u32_le(appended.events.len() as u32);
    for event in &appended.events {
        put_uuid(out, event.id);
        put_bytes(out, event.stream.as_str().as_bytes());
        out.put_u64_le(event.version);
        out.put_u64_le(event.timestamp_ns);
    }
}

fn appended(take: &mut Take) -> Option<Appended> {
    Some(Appended {
        partition_key: PartitionKey::new(take.uuid()?),
        partition: PartitionId(take.u16()?),
        transaction_id: take.uuid()?,
        first_sequence: take.u64()?,
        events: take.list(|take| {
            Some(AppendedEvent {
                id: take.uuid()?,
                stream: take.stream()?,
                version: take.u64()?,
                timestamp_ns: take.u64()?,
            })
        })?,
    })
}

fn put_refusal(out: &mut BytesMut, refusal: &Refusal) {
    let stream = |out: &mut BytesMut, stream: &StreamId| put_bytes(out, stream.as_str().as_bytes());
    match refusal {
        Refusal::WrongVersion { stream: of, partition_key, expected, current } => {
            out.put_u8(1);
            stream(out, of);
            put_uuid(out, partition_key.uuid());
            put_expected(out, *expected);
            put_option(out, *current);
        }
        Refusal::Duplicate { id, stream: of, version } => {
            out.put_u8(2);
            put_uuid(out, *id);
            stream(out, of);
            out.put_u64_le(*version);
        }
        Refusal::OtherPartitionKey { stream: of, given, actual } => {
            out.put_u8(3);
            stream(out, of);
            put_uuid(out, given.uuid());
            put_uuid(out, actual.uuid());
        }
        Refusal::NotStrict { stream: of, expected } => {
            out.put_u8(4);
            stream(out, of);
            put_expected(out, *expected);
        }
        Refusal::Exhausted { stream: of } => {
            out.put_u8(5);
            stream(out, of);
        }
        Refusal::TooLarge { size_bytes, limit_bytes } => {
            out.put_u8(6);
            out.put_u64_le(*size_bytes);
            out.put_u64_le(*limit_bytes);
        }
        Refusal::NoRoom => out.put_u8(7),
        Refusal::Busy => out.put_u8(8),
        Refusal::NotLeader => out.put_u8(9),
        Refusal::ReadFailed(what) => {
            out.put_u8(10);
            put_bytes(out, what.as_bytes());
        }
        Refusal::Closed(reason) => {
            out.put_u8(11);
            put_reason(out, reason);
        }
        Refusal::Stopping => out.put_u8(12),
        Refusal::NoQuorum => out.put_u8(13),
    }
}

fn refusal(take: &mut Take) -> Option<Refusal> {
    Some(match take.u8()? {
        1 => Refusal::WrongVersion {
            stream: take.stream()?,
            partition_key: PartitionKey::new(take.uuid()?),
            expected: take.expected()?,
            current: take.option()?,
        },
        2 => Refusal::Duplicate { id: take.uuid()?, stream: take.stream()?, version: take.u64()? },
        3 => Refusal::OtherPartitionKey {
            stream: take.stream()?,
            given: PartitionKey::new(take.uuid()?),
            actual: PartitionKey::new(take.uuid()?),
        },
        4 => Refusal::NotStrict { stream: take.stream()?, expected: take.expected()? },
        5 => Refusal::Exhausted { stream: take.stream()? },
        6 => Refusal::TooLarge { size_bytes: take.u64()?, limit_bytes: take.u64()? },
        7 => Refusal::NoRoom,
        8 => Refusal::Busy,
        9 => Refusal::NotLeader,
        10 => Refusal::ReadFailed(take.text()?),
        11 => Refusal::Closed(reason(take)?),
        12 => Refusal::Stopping,
        13 => Refusal::NoQuorum,
        _ => return None,
    })
}

fn put_reason(out: &mut BytesMut, reason: &ClosedReason) {
    let (tag, what) = match reason {
        ClosedReason::DiskFailed(what) => (1, what.as_str()),
        ClosedReason::Corrupt(what) => (2, what.as_str()),
        ClosedReason::NotOpened(what) => (3, what.as_str()),
        ClosedReason::Panicked(what) => (4, what.as_str()),
        ClosedReason::Stopping => (5, ""),
    };
    out.put_u8(tag);
    put_bytes(out, what.as_bytes());
}

fn reason(take: &mut Take) -> Option<ClosedReason> {
    let (tag, what) = (take.u8()?, take.text()?);
    Some(match tag {
        1 => ClosedReason::DiskFailed(what),
        2 => ClosedReason::Corrupt(what),
        3 => ClosedReason::NotOpened(what),
        4 => ClosedReason::Panicked(what),
        5 => ClosedReason::Stopping,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamId {
        StreamId::new("account-1").expect("a good id")
    }

    #[test]
    fn requests_are_read_back_and_cut_ones_are_not() {
        let key = PartitionKey::of_stream("account-1");
        let id = actadb_model::ids::with_hash16(Uuid::from_u128(5), key.hash16());
        let name = EventName::new("Opened").expect("a good name");
        let event = NewEvent::new(stream(), name).expected(ExpectedVersion::Exact(7));
        let events = vec![event.clone().id(id).payload("p"), event.timestamp_ms(9).metadata("m")];
        let transaction = Transaction::new(key, events).expect("good").durable(true);
        let request = AppendRequest {
            token: 1,
            partition: PartitionId(12),
            connection: u64::MAX,
            transactions: vec![transaction.clone(), transaction.durable(false)],
        };
        let bytes = request.encode();
        assert_eq!(AppendRequest::decode(bytes.clone()), Some(request));
        for length in 0..bytes.len() {
            assert_eq!(AppendRequest::decode(bytes.slice(..length)), None, "cut at {length}");
        }
    }

    #[test]
    fn every_answer_travels_whole() {
        let key = PartitionKey::of_stream("account-1");
        let stream = stream();
        let refusals = [
            Refusal::WrongVersion {
                stream: stream.clone(),
                partition_key: key,
                expected: ExpectedVersion::Empty,
                current: Some(3),
            },
            Refusal::Duplicate { id: Uuid::from_u128(1), stream: stream.clone(), version: 2 },
            Refusal::OtherPartitionKey { stream: stream.clone(), given: key, actual: key },
            Refusal::NotStrict { stream: stream.clone(), expected: ExpectedVersion::Any },
            Refusal::Exhausted { stream: stream.clone() },
            Refusal::TooLarge { size_bytes: 9, limit_bytes: 8 },
            Refusal::NoRoom,
            Refusal::Busy,
            Refusal::NotLeader,
            Refusal::ReadFailed("rot".into()),
            Refusal::Closed(ClosedReason::DiskFailed("EIO".into())),
            Refusal::Closed(ClosedReason::Corrupt("rot".into())),
            Refusal::Closed(ClosedReason::NotOpened("EMFILE".into())),
            Refusal::Closed(ClosedReason::Panicked("a bug".into())),
            Refusal::Closed(ClosedReason::Stopping),
            Refusal::Stopping,
            Refusal::NoQuorum,
        ];
        let mut results: Vec<AppendResult> =
            refusals.into_iter().map(|refusal| Err(refusal.into())).collect();
        results.push(Err(Unknown::Uncertain.into()));
        results.push(Err(Unknown::Timeout.into()));
        let event =
            AppendedEvent { id: Uuid::from_u128(4), stream, version: 8, timestamp_ns: 1 << 60 };
        results.push(Ok(Appended {
            partition_key: key,
            partition: PartitionId(3),
            transaction_id: Uuid::from_u128(4),
            first_sequence: 77,
            events: vec![event],
        }));
        let response = AppendResponse { token: 6, results };
        let bytes = response.encode();
        assert_eq!(AppendResponse::decode(bytes.clone()), Some(response));
        for length in 0..bytes.len() {
            assert_eq!(AppendResponse::decode(bytes.slice(..length)), None, "cut at {length}");
        }
    }
}
