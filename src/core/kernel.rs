//! Loops over numbers, compiled for each instruction set that this program knows; which is used is decided when it runs.
//!
//! One source serves all of them, so that each is its own scalar twin; only what moves values without computing any has a form of
//! its own for wide registers, beside the plain loop (`tile`). The order of additions is written out: an element of a
//! result is one chain of fused multiply-adds, and a sum over a slice is [`LANES`] chains that are added up as a tree. The
//! compiler may put neighbouring chains into one register, of any width, and may not change a chain: so every instruction set
//! gives the same bits. A fused multiply-add is rounded once by IEEE 754; where there is no instruction for it, `rounded_once` is it.
//!
//! What is called here has the layout of its shapes checked once, before the loops.

#![expect(clippy::inline_always, reason = "what is not inlined into a kernel is compiled for the baseline")]
#![expect(clippy::needless_pass_by_value, reason = "views are passed on as they are")]

pub mod dense;
pub mod factors;
pub mod product;
pub mod rows;
mod tile;

use std::sync::atomic::{AtomicU8, Ordering};

/// Chains of a sum over a slice.
pub const LANES: usize = 16;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InstructionSet {
    /// What every processor of the architecture has: SSE2 on x86-64 (`fma` in software then), NEON on aarch64.
    Baseline = 1,
    /// AVX2 and FMA.
    Avx2 = 2,
    /// AVX-512 (F, VL, BW, DQ).
    Avx512 = 3,
}

/// This processor has not the instructions that were asked for, or there are none of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no instruction set of this processor: it has {available}")]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub struct NoInstructionSet {
    pub name: String,
    pub available: String,
}

/// The one in use; 0 until it is first asked for.
static IN_USE: AtomicU8 = AtomicU8::new(0);

impl InstructionSet {
    const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Those of this processor, the widest last.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// Makes the kernels use the one of this name, in the whole process. Results stay the same, to the bit.
    ///
    /// # Errors
    /// When this processor has it not.
    pub fn choose(name: &str) -> Result<Self, NoInstructionSet> {
        let chosen = Self::available().find(|set| set.name() == name);
        let chosen = chosen.ok_or_else(|| NoInstructionSet {
            name: name.chars().take(100).collect(),
            available: Self::available().map(Self::name).collect::<Vec<_>>().join(", "),
        })?;
        IN_USE.store(chosen as u8, Ordering::Relaxed);
        Ok(chosen)
    }

    /// The one in use: the widest of this processor, unless another was chosen.
    #[inline]
    pub fn in_use() -> Self {
        match IN_USE.load(Ordering::Relaxed) {
            1 => Self::Baseline,
            2 => Self::Avx2,
            3 => Self::Avx512,
            _ => Self::detect(),
        }
    }

    #[cold]
    fn detect() -> Self {
        let widest = Self::available().next_back().unwrap_or(Self::Baseline);
        // Whoever chose meanwhile is right.
        let _ = IN_USE.compare_exchange(0, widest as u8, Ordering::Relaxed, Ordering::Relaxed);
        widest
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let has_avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match self {
            Self::Baseline => true,
            Self::Avx2 => has_avx2(),
            Self::Avx512 => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Self::Baseline
    }
}

/// Defines functions that are compiled for each instruction set and call the one in use; `FUSED` says in them whether it has a fused
/// multiply-add. What they call must be `#[inline(always)]`, or it is compiled for the baseline.
macro_rules! kernels {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn on_any<const FUSED: bool>($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn on_avx2($($arg: $type),*) $(-> $out)? {
                    on_any::<true>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn on_avx512($($arg: $type),*) $(-> $out)? {
                    on_any::<true>($($arg),*)
                }
                match $crate::kernel::InstructionSet::in_use() {
                    // SAFETY: only what this processor has is ever in use.
                    $crate::kernel::InstructionSet::Avx512 => unsafe { on_avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernel::InstructionSet::Avx2 => unsafe { on_avx2($($arg),*) },
                    $crate::kernel::InstructionSet::Baseline => on_any::<false>($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            on_any::<true>($($arg),*)
        }
    )*};
}
pub(crate) use kernels;

/// Asks the processor to fetch what will be read soon. Changes nothing else.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it reads nothing that the program sees.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// `x · y + z`, rounded once.
#[inline(always)]
fn fma<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { rounded_once(x, y, z) }
}

/// The same without an instruction for it. The product is exact in f64. The sum is rounded there to odd: where it is not exact, the
/// neighbour whose last bit is 1 (Boldo and Melquiond 2008). That keeps what rounding to f32 needs, subnormal results included.
#[inline(always)]
fn rounded_once(x: f32, y: f32, z: f32) -> f32 {
    let (product, z) = (f64::from(x) * f64::from(y), f64::from(z));
    let sum = product + z;
    // What the sum lacks, exactly (Knuth's two-sum).
    let of_z = sum - product;
    let rest = (product - (sum - of_z)) + (z - of_z);
    let bits = sum.to_bits();
    let is_moved = rest != 0.0 && sum.is_finite() && bits & 1 == 0;
    let moved = if (rest > 0.0) == (sum > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if is_moved { moved } else { bits }) as f32
}

/// Adds up the chains of a sum: halves onto halves.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests;
