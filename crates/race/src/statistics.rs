//! Statistics of a list of times.

use serde::Serialize;

/// Of how many modified Z-scores an outlier is at least (Iglewicz and Hoaglin, How to Detect and Handle Outliers).
const OUTLIER_SCORE: f64 = 3.5;
/// The part of the median that an outlier is off by at least: among times that hardly differ the score alone would
/// call the smallest difference one.
const OUTLIER_PART: f64 = 0.1;

/// A summary of times, in the unit that they have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    pub mean: f64,
    /// Of the sample (n - 1 in the denominator); none of a single time.
    pub stddev: Option<f64>,
    pub median: f64,
    pub p95: f64,
    pub min: f64,
    pub max: f64,
}

impl Statistics {
    /// None of no times.
    pub fn of(times: &[f64]) -> Option<Self> {
        let sorted = sorted(times);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let mean = mean(times);
        let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
        Some(Self {
            mean,
            stddev: (times.len() > 1).then(|| (squares / (times.len() - 1) as f64).sqrt()),
            median: median(&sorted),
            p95: percentile(&sorted, 95),
            min,
            max,
        })
    }
}

pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// 0 of no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The smallest value that so many percent of all, at least, do not exceed (the nearest rank): a time that was
/// measured, never one in between. `sorted` has a value, and `percent` is 1 to 100.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The places of times that stand apart from the others: by a modified Z-score above 3.5, and by more than a tenth of
/// the median.
pub fn outliers(times: &[f64]) -> Vec<usize> {
    if times.is_empty() {
        return Vec::new();
    }
    let middle = median(&sorted(times));
    let deviations: Vec<f64> = times.iter().map(|time| (time - middle).abs()).collect();
    let spread = median(&sorted(&deviations));
    let stands_apart = |deviation: f64| {
        // The factor makes the median of the deviations comparable to a standard deviation.
        0.6745 * deviation > OUTLIER_SCORE * spread && deviation > OUTLIER_PART * middle
    };
    (0..times.len())
        .filter(|&place| stands_apart(deviations[place]))
        .collect()
}

/// How many times as long something takes as something else, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub value: f64,
    pub stddev: Option<f64>,
}

impl Ratio {
    /// The deviation by the propagation of independent errors.
    pub fn of(slow: &Statistics, fast: &Statistics) -> Self {
        let value = slow.mean / fast.mean;
        let stddev = slow.stddev.zip(fast.stddev).map(|(slow_stddev, fast_stddev)| {
            value * ((slow_stddev / slow.mean).powi(2) + (fast_stddev / fast.mean).powi(2)).sqrt()
        });
        Self { value, stddev }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_list_has_its_known_summary() {
        let times = [4.0, 2.0, 5.0, 4.0, 7.0, 9.0, 4.0, 5.0];
        let statistics = Statistics::of(&times).unwrap();
        assert_eq!(statistics.mean, 5.0);
        // The squares of the deviations sum to 32.
        assert!((statistics.stddev.unwrap() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!((statistics.median, statistics.p95), (4.5, 9.0));
        assert_eq!((statistics.min, statistics.max), (2.0, 9.0));
    }

    #[test]
    fn one_time_has_no_deviation_and_none_has_no_summary() {
        let statistics = Statistics::of(&[3.0]).unwrap();
        assert_eq!((statistics.stddev, statistics.p95), (None, 3.0));
        assert_eq!(Statistics::of(&[]), None);
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 95), 95.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred[..10], 50), 5.0);
        assert_eq!(percentile(&hundred[..10], 99), 10.0);
    }

    #[test]
    fn an_outlier_stands_apart_and_small_differences_do_not() {
        assert_eq!(outliers(&[10.0, 10.2, 9.9, 10.1, 30.0, 10.0]), [4]);
        assert!(outliers(&[10.0, 10.0, 10.0, 10.5]).is_empty());
        assert!(outliers(&[1.0, 2.0, 3.0, 4.0, 5.0]).is_empty());
        assert!(outliers(&[]).is_empty());
    }

    #[test]
    fn a_ratio_carries_both_errors() {
        let statistics = |mean, stddev| Statistics {
            mean,
            stddev: Some(stddev),
            median: mean,
            p95: mean,
            min: mean,
            max: mean,
        };
        let ratio = Ratio::of(&statistics(20.0, 0.6), &statistics(10.0, 0.4));
        assert_eq!(ratio.value, 2.0);
        assert!((ratio.stddev.unwrap() - 2.0 * 0.05).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn a_summary_is_in_order_and_within_the_range(times in prop::collection::vec(1e-6..1e6_f64, 1..50)) {
            let statistics = Statistics::of(&times).unwrap();
            let slack = statistics.max * 1e-12;
            prop_assert!(statistics.min <= statistics.median && statistics.median <= statistics.p95);
            prop_assert!(statistics.p95 <= statistics.max);
            prop_assert!(statistics.mean >= statistics.min - slack && statistics.mean <= statistics.max + slack);
            prop_assert!(times.contains(&statistics.p95));
            let exceeded = times.iter().filter(|&&time| time > statistics.p95).count();
            prop_assert!(exceeded * 20 <= times.len());
        }

        #[test]
        fn fewer_than_half_of_all_times_are_outliers(times in prop::collection::vec(1e-6..1e6_f64, 0..50)) {
            prop_assert!(outliers(&times).len() * 2 <= times.len());
        }

        #[test]
        fn a_unit_does_not_change_what_is_an_outlier(
            times in prop::collection::vec(1e-3..1e3_f64, 0..50), power in -20..20_i32
        ) {
            // Powers of two are exact.
            let scaled: Vec<f64> = times.iter().map(|time| time * 2f64.powi(power)).collect();
            prop_assert_eq!(outliers(&scaled), outliers(&times));
        }
    }
}
