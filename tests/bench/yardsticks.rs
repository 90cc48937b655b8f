//! What the machine can do at all, beside what is measured: two things that learning is made of, for comparing machines and minutes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use deepfm_core::feature::hash::mix64;
use deepfm_core::kernel::product;

/// Rows, inner dimension and columns of the matrix product: the first layer of 20 fields of dimension 10 on 64 units, 512 examples.
const SHAPE: [usize; 3] = [512, 200, 64];

/// Blocks of memory: 1 GiB of them.
pub(crate) const BLOCKS: usize = 1 << 23;

/// How long each is measured at a time.
const ROUND: Duration = Duration::from_millis(200);

/// Two cache lines that are read together: about a row of the table.
#[repr(align(128))]
#[derive(Clone, Copy)]
struct Block([u64; 16]);

/// The yardsticks, with what they found so far.
pub(crate) struct Yardsticks {
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
    memory: Vec<Block>,
    reads: u64,
    found: [Vec<f64>; 2],
}

impl Yardsticks {
    /// Yardsticks of so many blocks of memory.
    pub(crate) fn over(blocks: usize) -> Self {
        let [rows, inner, columns] = SHAPE;
        let values = |count: usize| (0..count).map(|n| (n % 7) as f32 / 8.0).collect();
        Self {
            left: values(rows * inner),
            right: values(inner * columns),
            out: vec![0.0; rows * columns],
            // Not of zeros: they would all be one page.
            memory: (0..blocks as u64).map(|n| Block([n; 16])).collect(),
            reads: 0,
            found: [Vec::new(), Vec::new()],
        }
    }

    /// Measures both once more.
    pub(crate) fn measure(&mut self) {
        let (products, seconds) = repeat(|| {
            product::add(black_box(&self.left), black_box(&self.right), &mut self.out, SHAPE);
            self.out.fill(0.0);
        });
        let operations = 2.0 * SHAPE.iter().product::<usize>() as f64;
        self.found[0].push(products * operations / seconds / 1e9);
        let mut sum = 0_u64;
        let (rounds, seconds) = repeat(|| {
            for _ in 0..1000 {
                self.reads += 1;
                let place = u128::from(mix64(self.reads)) * self.memory.len() as u128;
                let block = &self.memory[(place >> 64) as usize];
                sum = block.0.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
            }
        });
        black_box(sum);
        self.found[1].push(1000.0 * rounds / seconds / 1e6);
    }

    /// What they are at the middle and at the ends.
    pub(crate) fn lines(&self) -> [String; 2] {
        let names = ["matrix product 512×200×64, GFLOP/s", "random reads of 128 bytes of 1 GiB, million/s"];
        [0, 1].map(|number| {
            let mut found = self.found[number].clone();
            found.sort_unstable_by(f64::total_cmp);
            let (least, most) = (found[0], found[found.len() - 1]);
            format!("{:<46}{:>10.1}  ({least:.1} to {most:.1})", names[number], median(&mut found))
        })
    }
}

/// How often something could be done, and in how many seconds.
fn repeat(mut job: impl FnMut()) -> (f64, f64) {
    let (start, mut times) = (Instant::now(), 0_u32);
    while start.elapsed() < ROUND {
        job();
        times += 1;
    }
    (f64::from(times), start.elapsed().as_secs_f64())
}

/// The middle of some values.
///
/// # Panics
/// When there are none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}
