//! What was measured, beside what it shall be: a table and JSON.

use serde::Serialize;
use serde_json::{Value, json};

use crate::terminal::table;

/// One number.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    /// The value shall be at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<bool>,
}

/// All numbers of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    details: serde_json::Map<String, Value>,
}

impl Report {
    /// A number that shall be at most `target`, if it has one.
    pub(super) fn add(
        &mut self,
        part: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Option<f64>,
    ) {
        self.rows.push(Row {
            part,
            name: name.into(),
            value,
            unit,
            target,
            pass: target.map(|target| value <= target),
        });
    }

    /// What is worth keeping but no row: counts by kind, distributions.
    pub(super) fn detail(&mut self, name: &str, value: Value) {
        self.details.insert(name.to_owned(), value);
    }

    pub(super) fn json(&self, parameters: &Value) -> Value {
        json!({"parameters": parameters, "results": self.rows, "details": self.details})
    }

    pub(super) fn table(&self) -> String {
        let header = ["", "", "MEASURED", "AT MOST", ""]
            .map(ToOwned::to_owned)
            .to_vec();
        let rows = self.rows.iter().map(|row| {
            let verdict = match row.pass {
                Some(true) => "pass",
                Some(false) => "MISS",
                None => "",
            };
            let target = row
                .target
                .map(|target| number(target, row.unit))
                .unwrap_or_default();
            vec![
                row.part.to_owned(),
                row.name.clone(),
                number(row.value, row.unit),
                target,
                verdict.to_owned(),
            ]
        });
        table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
    }

    /// How many numbers have a target, and how many miss it.
    pub(super) fn misses(&self) -> (usize, usize) {
        let judged = self.rows.iter().filter_map(|row| row.pass);
        judged.fold((0, 0), |(all, missed), pass| {
            (all + 1, missed + usize::from(!pass))
        })
    }
}

fn number(value: f64, unit: &str) -> String {
    let text = if value.fract().abs() < 1e-9 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value < 10.0 {
        // A miss by little must be seen.
        format!("{value:.3}")
    } else {
        format!("{value:.2}")
    };
    format!("{text} {unit}").trim_end().to_owned()
}

/// The value below which `share` of the sorted values lie.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index between 0 and the length"
    )]
    let at = (share * (sorted.len().saturating_sub(1)) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_above_its_target_is_a_miss() {
        let mut report = Report::default();
        report.add("a", "b", 2.0, "s", Some(1.5));
        report.add("a", "c", 1.5, "s", Some(1.5));
        report.add("a", "d", 9.0, "", None);
        assert_eq!(report.misses(), (2, 1));
        assert!(report.table().contains("MISS"));
    }

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let sample = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (share, value) in [(0.0, 1.0), (0.5, 3.0), (1.0, 5.0)] {
            assert!((quantile(&sample, share) - value).abs() < f64::EPSILON);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
