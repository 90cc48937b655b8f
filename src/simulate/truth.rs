//! The truth behind simulated clicks: who likes what. Nothing is stored but the popularity of ids; every weight is a hash.

use deepfm_core::feature::hash;

/// Users, items, categories, tags, devices.
const USERS: usize = 5000;
const ITEMS: usize = 1000;
const CATEGORIES: u64 = 20;
const TAGS: u64 = 40;
const DEVICES: u64 = 4;
/// Exponent of the popularity of users and items.
const ZIPF: f64 = 1.1;
/// Width of the true factors.
const RANK: usize = 4;
/// The logit of the typical impression.
const BASE_LOGIT: f64 = -2.4;
/// Standard deviations of the three parts of the logit.
const LINEAR: f64 = 0.8;
const PAIRS: f64 = 0.8;
const NONLINEAR: f64 = 0.5;
/// Parts of an impression that have weights: user, item, category, device, tags, price.
const PARTS: usize = 6;

/// What an impression shows to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) user: usize,
    pub(super) item: usize,
    pub(super) generation: u64,
    pub(super) category: u64,
    pub(super) device: u64,
    pub(super) tags: Vec<u64>,
    pub(super) price: PriceCents,
}

/// A price with its two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PriceCents(u64);

impl std::fmt::Display for PriceCents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// Weights and popularities.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    seed: u64,
    users: Vec<f64>,
    items: Vec<f64>,
}

impl Truth {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, users: cumulative(USERS), items: cumulative(ITEMS) }
    }

    /// The click probability, with tastes turned by `angle`.
    pub(super) fn probability(&self, shown: &Shown, angle: f64) -> f64 {
        let keys = shown.keys();
        let mut linear = 0.0;
        let mut sums = [0.0; RANK];
        let mut squares = 0.0;
        for (part, key) in keys.into_iter().enumerate() {
            // Each part turns at its own speed, between two independent draws, so that its variance stays.
            let (sine, cosine) = (angle * (0.5 + part as f64 / PARTS as f64)).sin_cos();
            let weight = |lane: u64| cosine * self.normal(key, 2 * lane) + sine * self.normal(key, 2 * lane + 1);
            linear += weight(0);
            for (at, sum) in sums.iter_mut().enumerate() {
                let factor = weight(1 + at as u64);
                *sum += factor;
                squares += factor * factor;
            }
        }
        let pairs = 0.5 * (sums.iter().map(|sum| sum * sum).sum::<f64>() - squares);
        let pair_deviation = ((PARTS * (PARTS - 1) / 2 * RANK) as f64).sqrt();
        let nonlinear = (sums[0] - sums[1]).tanh() * (sums[2] * 0.5).cos();
        let logit = BASE_LOGIT
            + LINEAR * linear / (PARTS as f64).sqrt()
            + PAIRS * pairs / pair_deviation
            + NONLINEAR * nonlinear;
        1.0 / (1.0 + (-logit).exp())
    }

    /// A standard normal number for a key and lane (Box and Muller 1958).
    fn normal(&self, key: u64, lane: u64) -> f64 {
        let unit = |lane| ((hash::hash(self.seed, key, lane) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (-2.0 * unit(2 * lane).ln()).sqrt() * (std::f64::consts::TAU * unit(2 * lane + 1)).cos()
    }

    fn hashed(&self, key: u64, lane: u64, below: u64) -> u64 {
        hash::hash(self.seed, key, lane) % below
    }
}

impl Shown {
    /// Draws user, item and device from three uniform numbers; `lives` is the time in lives of an item.
    pub(super) fn draw(truth: &Truth, [user, item, device]: [f64; 3], lives: f64) -> Self {
        let user = truth.users.partition_point(|share| *share < user).min(USERS - 1);
        let item = truth.items.partition_point(|share| *share < item).min(ITEMS - 1);
        let phase = truth.hashed(item as u64, 100, 1 << 20) as f64 / f64::from(1 << 20);
        let generation = (lives + phase) as u64;
        let key = item_key(item, generation);
        let count = 1 + truth.hashed(key, 101, 3);
        let mut tags: Vec<u64> = (0..count).map(|at| truth.hashed(key, 110 + at, TAGS)).collect();
        tags.sort_unstable();
        tags.dedup();
        Self {
            category: truth.hashed(key, 102, CATEGORIES),
            device: (device * DEVICES as f64) as u64,
            price: PriceCents((500.0 * (1.0 * truth.normal(key, 60)).exp()) as u64 + 1),
            user,
            item,
            generation,
            tags,
        }
    }

    /// The keys whose weights make the logit, one for each part.
    fn keys(&self) -> [u64; PARTS] {
        let key = |part: u64, value: u64| hash::mix64(part << 56 | value);
        [
            key(1, self.user as u64),
            key(2, item_key(self.item, self.generation)),
            key(3, self.category),
            key(4, self.device),
            key(5, self.tags.first().copied().unwrap_or(TAGS)),
            key(6, ((self.price.0 as f64 / 100.0).ln_1p() * 4.0) as u64),
        ]
    }
}

fn item_key(item: usize, generation: u64) -> u64 {
    (item as u64) << 24 | generation
}

/// The cumulative shares of ids whose popularity falls with their rank.
fn cumulative(ids: usize) -> Vec<f64> {
    let shares = (0..ids).map(|rank| (rank as f64 + 3.0).powf(-ZIPF));
    let mut sum = 0.0;
    let sums: Vec<f64> = shares
        .map(|share| {
            sum += share;
            sum
        })
        .collect();
    sums.iter().map(|partial| partial / sum).collect()
}
