//! `numpy.random.RandomState`'s generator, as far as PowerSGD uses it: the Mersenne Twister MT19937.

const N: usize = 624;
const M: usize = 397;

/// `numpy.random.RandomState(seed)`.
pub(super) struct RandomState {
    state: [u32; N],
    next: usize,
}

impl RandomState {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = previous.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// `randint(1_000_000_000)`: the first number below that in the lowest bits that can hold one.
    pub(super) fn randint_billion(&mut self) -> u64 {
        loop {
            let masked = self.next_u32() & 0x3fff_ffff;
            if masked < 1_000_000_000 {
                return masked.into();
            }
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From numpy 2.4.6: `r = numpy.random.RandomState(seed); [r.randint(1_000_000_000) for _ in range(2000)]`.
    #[test]
    fn random_state_draws_numpys_numbers() {
        let draw = |seed| {
            let mut random = RandomState::new(seed);
            (0..2000).map(|_| random.randint_billion()).collect::<Vec<_>>()
        };
        let (zero, answer) = (draw(0), draw(42));
        assert_eq!(zero[..4], [209_652_396, 398_764_591, 924_231_285, 404_868_288]);
        assert_eq!(answer[..4], [534_895_718, 199_900_595, 862_061_404, 787_846_414]);
        assert_eq!([zero[1999], answer[1999]], [2_852_784, 886_548_666]);
    }
}
