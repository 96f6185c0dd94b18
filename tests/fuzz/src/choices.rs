//! Reads decisions from an input, so that a change of a byte is a change of a decision.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    /// No decision is left.
    pub(crate) fn is_over(self) -> bool {
        self.0.is_empty()
    }

    /// A byte; 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.run(1).first().copied().unwrap_or(0)
    }

    /// Two bytes as a number.
    pub(crate) fn short(&mut self) -> u32 {
        u32::from(self.byte()) << 8 | u32::from(self.byte())
    }

    /// The next bytes, as many as there are.
    pub(crate) fn run(&mut self, length: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(self.0.len().min(length));
        self.0 = rest;
        front
    }
}
