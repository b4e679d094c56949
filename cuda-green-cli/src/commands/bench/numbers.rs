//! Numbers that look random and are the same in every run.

/// The generator MINSTD, which C++ and Python have too, from its state.
pub struct Numbers(pub u64);

impl Numbers {
    /// Returns the next number, less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0 * 48_271 % 2_147_483_647;
        self.0 % end
    }
}
