//! Seeded random numbers: xorshift64* (Vigna 2016), so that a seed gives the same net wherever it is trained.

/// A generator.
pub struct Random(u64);

impl Random {
    /// Every seed is good.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves; mixing keeps neighbouring seeds apart.
        let mut random = Self((seed ^ 0x9E37_79B9_7F4A_7C15).max(1));
        for _ in 0..8 {
            random.uniform();
        }
        random
    }

    /// `[0, 1)`
    pub fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (self.uniform() * std::f64::consts::TAU).cos()
    }

    /// `[low, high)`
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Evenly on a log scale.
    pub fn log_between(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    /// The failed share of so many calls that fail by chance.
    pub fn share(&mut self, calls: f64, chance: f64) -> f64 {
        let expected = calls * chance;
        // Poisson by counting arrivals; expected counts here are small.
        let (mut count, mut product, limit) = (0.0, self.uniform(), (-expected).exp());
        while product > limit && count < 200.0 {
            count += 1.0;
            product *= self.uniform();
        }
        if calls > 0.0 { (count / calls).min(1.0) } else { 0.0 }
    }

    /// A shuffled `0..count`.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, (self.uniform() * (last + 1) as f64) as usize);
        }
        order
    }
}
