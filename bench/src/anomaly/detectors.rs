//! The detectors: features in, how unusual each step is out, larger for more. The autoencoder and PCA are
//! shared by all services and learn only from the train parts of services that they do not score.

use super::baseline::Features;
use faultline_models::net::{Net, Sample, Spoiling, train};
use faultline_models::random::Random;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// Every so many steps a window to learn from: neighbours overlap, and tell little new.
const STRIDE: usize = 5;
/// Passes over the windows.
const PASSES: usize = 10;
/// Windows in one batch of inference.
const BATCH: usize = 64;
/// This share of the inputs is spoiled: one signal surely, the others with [`SPOILED_OTHERS`].
const SPOILED: f64 = 0.7;
const SPOILED_OTHERS: f64 = 0.2;
/// Principal components of a window: as many numbers as the net's narrowest layer holds.
const COMPONENTS: usize = 32;
/// Rounds of the subspace iteration; the spectrum falls fast enough.
const ROUNDS: usize = 30;

/// A score for each row of a service; `None` while there is too little past.
pub(super) type Scores = Vec<Option<f64>>;

/// What a service has to show, and how much of it may be learned from.
pub(super) struct Subject {
    pub(super) features: Features,
    /// Rows of the train part.
    pub(super) train: usize,
    /// All rows.
    pub(super) steps: usize,
}

/// Windows of the train parts.
fn samples(subjects: &[&Subject]) -> Vec<Sample> {
    let of = |subject: &&Subject| -> Vec<Sample> {
        let rows = (0..subject.train).step_by(STRIDE);
        let windows = rows.filter_map(|row| subject.features.window(row));
        windows.map(|(values, present)| (values.to_owned(), present.to_owned())).collect()
    };
    subjects.iter().flat_map(of).collect()
}

/// Scores `unseen` by an autoencoder that learned from `others`: the mean squared error over what was
/// measured.
pub(super) fn autoencoder(others: &[&Subject], unseen: &[&Subject], seed: u64) -> Vec<Scores> {
    let samples = samples(others);
    let channels = samples.first().map_or(0, |(values, _)| values.nrows());
    let mut random = Random::new(seed);
    let mut net = Net::new(channels, &mut random);
    let groups = (0..channels).map(|channel| vec![channel]).collect();
    let spoiling = Spoiling { share: SPOILED, groups, others: SPOILED_OTHERS };
    train(&mut net, &samples, &spoiling, PASSES, &mut random);
    let score = |subject: &&Subject| by_window(subject, |batch| net.reconstruct(batch));
    unseen.iter().map(score).collect()
}

/// Scores `unseen` by what the principal components of `others` leave unexplained.
pub(super) fn principal_components(others: &[&Subject], unseen: &[&Subject], seed: u64) -> Vec<Scores> {
    let samples = samples(others);
    let size = samples.first().map_or(0, |(values, _)| values.len());
    let mut matrix = Array2::<f32>::zeros((samples.len(), size));
    for (mut row, (values, _)) in matrix.outer_iter_mut().zip(&samples) {
        row.assign(&flat(&values.view()));
    }
    let mean = matrix.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(size));
    matrix -= &mean;
    let covariance = matrix.t().dot(&matrix) / samples.len().max(1) as f32;
    let mut random = Random::new(seed);
    let mut basis = Array2::from_shape_fn((size, COMPONENTS.min(size)), |_| random.normal() as f32);
    for _ in 0..ROUNDS {
        orthonormal(&mut basis);
        basis = covariance.dot(&basis);
    }
    orthonormal(&mut basis);
    let rebuild = |window: &ArrayView2<'_, f32>| {
        let around = flat(window) - &mean;
        let rebuilt = basis.dot(&basis.t().dot(&around)) + &mean;
        Array2::from_shape_vec(window.dim(), rebuilt.to_vec()).unwrap_or_else(|_| window.to_owned())
    };
    let score = |subject: &&Subject| by_window(subject, |batch| batch.iter().map(rebuild).collect());
    unseen.iter().map(score).collect()
}

/// The largest deviation of any signal.
pub(super) fn largest_deviation(subject: &Subject) -> Scores {
    let most = |values: Vec<f32>| values.iter().fold(0.0, |most: f64, z| most.max(f64::from(z.abs())));
    (0..subject.steps).map(|row| subject.features.newest(row).map(most)).collect()
}

/// The mean squared deviation over the signals.
pub(super) fn mean_square(subject: &Subject) -> Scores {
    let mean = |values: Vec<f32>| values.iter().map(|z| f64::from(z * z)).sum::<f64>() / values.len() as f64;
    (0..subject.steps).map(|row| subject.features.newest(row).map(mean)).collect()
}

/// Exponential smoothing: `s += weight (x - s)`.
pub(super) fn smooth(scores: &Scores, weight: f64) -> Scores {
    let mut level: Option<f64> = None;
    let follow = |score: &Option<f64>| {
        let score = (*score)?;
        let before = level.unwrap_or(score);
        level = Some(before + weight * (score - before));
        level
    };
    scores.iter().map(follow).collect()
}

/// Reconstruction errors by row.
fn by_window(subject: &Subject, rebuild: impl Fn(&[ArrayView2<'_, f32>]) -> Vec<Array2<f32>>) -> Scores {
    let mut scores = vec![None; subject.steps];
    let rows: Vec<usize> = (0..subject.steps).filter(|row| subject.features.window(*row).is_some()).collect();
    for rows in rows.chunks(BATCH) {
        let windows: Vec<_> = rows.iter().filter_map(|row| subject.features.window(*row)).collect();
        let values: Vec<_> = windows.iter().map(|(values, _)| values.view()).collect();
        for ((row, (values, present)), rebuilt) in rows.iter().zip(&windows).zip(rebuild(&values)) {
            let pairs = values.iter().zip(&rebuilt).zip(present);
            let squares: f64 = pairs.map(|((x, y), present)| f64::from((x - y) * present).powi(2)).sum();
            let error = squares / f64::from(present.sum().max(1.0));
            if let Some(score) = scores.get_mut(*row) {
                *score = Some(error);
            }
        }
    }
    scores
}

fn flat(window: &ArrayView2<'_, f32>) -> Array1<f32> {
    window.iter().copied().collect()
}

/// Gram and Schmidt, columns in order.
fn orthonormal(basis: &mut Array2<f32>) {
    for column in 0..basis.ncols() {
        let mut this = basis.column(column).to_owned();
        // Twice is enough against rounding.
        for earlier in (0..column).chain(0..column) {
            let other = basis.column(earlier);
            let along = other.dot(&this);
            this.scaled_add(-along, &other);
        }
        let length = this.dot(&this).sqrt().max(f32::MIN_POSITIVE);
        basis.column_mut(column).assign(&(this / length));
    }
}
