//! Bytes as a script of choices.

/// Reads choices from the front of some bytes. Behind their end every choice is 0, so any bytes
/// are a whole script, and a shorter one means less.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    rest: &'a [u8],
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 8] = [
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 63) - 1,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    u16::MAX as u64,
    u16::MAX as u64 + 1,
];

impl<'a> Script<'a> {
    /// A script from its beginning.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether no choice is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Up to `n` bytes as they are.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left, as it is.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes as a number.
    pub fn pair(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// A number below `bound`, which is at least 1 and at most 65,536.
    pub fn below(&mut self, bound: usize) -> usize {
        let drawn = if bound > 256 { self.pair().into() } else { usize::from(self.byte()) };
        drawn % bound
    }

    /// True or false; true behind the end.
    pub fn coin(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    /// True once in `n` times, by the choice of a byte.
    pub fn one_in(&mut self, n: usize) -> bool {
        // The end of the script must not choose what is rare.
        !self.is_empty() && self.below(n) == n - 1
    }

    /// A number: mostly a small one, sometimes one at an edge, sometimes any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => small.into(),
            any @ 200..=227 => u64::from_le_bytes(self.array()) >> (any % 28),
            edge => EDGES[usize::from(edge % 8)],
        }
    }
}
