//! The figures along an axis.

/// The distance of two ticks: 1, 2 or 5 times a power of ten, for at most ten ticks up to `end`.
pub fn step(end: f64) -> f64 {
    let least = end / 10.0;
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= least).unwrap_or(end)
}

/// A tick's figure, with the decimals that ticks at this distance need.
pub fn label(tick: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{tick:.decimals$}")
}
