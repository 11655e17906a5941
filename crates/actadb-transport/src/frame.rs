//! One message in a lane.
//!
//! ```text
//! length u32 (of what follows the checksum), crc32c u32, kind u8, zero u8, group u16, body
//! ```
//! Integers are little-endian. Noise protects what is on the wire of libp2p; the checksum protects
//! from what happens before and after, and on plain TCP.

use bytes::Bytes;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes before the part that the checksum covers.
const OUTER_BYTES: usize = 8;
/// Bytes of kind and group.
const INNER_BYTES: usize = 4;
/// A frame is read in pieces of this many bytes, or as many as there are already.
const READ_STEP_BYTES: usize = 1 << 20;
/// Longest frame: an entry as large as an append may be, and something around it.
pub const FRAME_MAX_BYTES: usize = 128 << 20;

/// What a frame carries. The numbers are on the wire: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// From a replica of the group to another.
    Replica = 1,
    /// Appends for the leader of the group.
    Append = 2,
    /// Their answers.
    Appended = 3,
    /// The cluster has been formed.
    Formed = 4,
    /// The handshake.
    Hello = 5,
    /// Nothing else was to be said for a while.
    Beat = 6,
    /// How the sender is doing.
    Report = 7,
}

impl FrameKind {
    fn from_u8(value: u8) -> Option<Self> {
        use FrameKind::{Append, Appended, Beat, Formed, Hello, Replica, Report};
        let all = [Replica, Append, Appended, Formed, Hello, Beat, Report];
        all.into_iter().find(|kind| *kind as u8 == value)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Number of the group, which is that of its bucket.
    pub group: u16,
    /// The message.
    pub body: Bytes,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream has ended, or broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What came is not a frame.
    #[error("a frame between nodes is bad: {0}")]
    Bad(&'static str),
    /// A frame of a kind that this version does not know.
    #[error("a frame between nodes is of kind {0}, which is not known")]
    Unknown(u8),
}

impl Frame {
    /// Bytes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        OUTER_BYTES + INNER_BYTES + self.body.len()
    }

    fn inner(&self) -> [u8; INNER_BYTES] {
        let [low, high] = self.group.to_le_bytes();
        [self.kind as u8, 0, low, high]
    }

    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When it is longer than [`FRAME_MAX_BYTES`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = INNER_BYTES + self.body.len();
        assert!(length <= FRAME_MAX_BYTES, "a frame of {length} bytes");
        let inner = self.inner();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&inner), &self.body);
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&inner);
        out.extend_from_slice(&self.body);
    }

    /// Writes it and flushes.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(self.wire_bytes());
        self.encode(&mut bytes);
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    /// Reads the next one of a kind that is known: a newer node may have more to tell.
    ///
    /// # Errors
    /// See [`FrameError`]; the stream is of no use then.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, FrameError> {
        loop {
            match Self::read_up_to(FRAME_MAX_BYTES, stream).await {
                Err(FrameError::Unknown(kind)) => tracing::debug!(kind, "a frame is passed over"),
                read => return read,
            }
        }
    }

    /// The same, of at most so many bytes: of somebody who is not known yet.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_up_to(
        most: usize,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Self, FrameError> {
        let mut outer = [0; OUTER_BYTES];
        stream.read_exact(&mut outer).await?;
        let [a, b, c, d, e, f, g, h] = outer;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let checksum = u32::from_le_bytes([e, f, g, h]);
        if !(INNER_BYTES..=most).contains(&length) {
            return Err(FrameError::Bad("its length"));
        }
        // Memory is taken as bytes come, not as they are announced.
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let had = bytes.len();
            let more = (length - had).min(had.max(READ_STEP_BYTES));
            bytes.reserve_exact(more);
            bytes.resize(had + more, 0);
            stream.read_exact(&mut bytes[had..]).await?;
        }
        if crc32c::crc32c(&bytes) != checksum {
            return Err(FrameError::Bad("its checksum"));
        }
        let mut body = Bytes::from(bytes);
        let inner = body.split_to(INNER_BYTES);
        let [kind, _, low, high] = inner[..] else { return Err(FrameError::Bad("its head")) };
        let kind = FrameKind::from_u8(kind).ok_or(FrameError::Unknown(kind))?;
        Ok(Self { kind, group: u16::from_le_bytes([low, high]), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    #[test]
    fn frames_are_read_back_and_bad_ones_are_not() {
        let frame =
            |kind, body: &'static [u8]| Frame { kind, group: 300, body: Bytes::from_static(body) };
        let frames = [
            frame(FrameKind::Replica, b"entries"),
            frame(FrameKind::Append, b""),
            frame(FrameKind::Hello, b"{}"),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        assert_eq!(bytes.len(), frames.iter().map(Frame::wire_bytes).sum::<usize>());
        let mut stream = Cursor::new(bytes.clone());
        for frame in &frames {
            assert_eq!(block_on(Frame::read(&mut stream)).expect("good"), *frame);
        }
        assert!(matches!(block_on(Frame::read(&mut stream)), Err(FrameError::Io(_))));
        for at in 0..frames[0].wire_bytes() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(block_on(Frame::read(&mut Cursor::new(damaged))).is_err(), "byte {at}");
            assert!(block_on(Frame::read(&mut Cursor::new(&bytes[..at]))).is_err(), "cut at {at}");
        }
    }
}
