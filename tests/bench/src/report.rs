//! From trials to a table: medians over rounds, and medians of each round's ratio to the first contestant.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::scenario::{Scenario, Trial};

/// Every trial of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    trials: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize)]
struct Entry {
    scenario: String,
    contestant: String,
    round: u32,
    figures: Trial,
}

/// One figure of one scenario, for every contestant.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) figure: String,
    /// Contestant, median, and median ratio to the first contestant.
    pub(crate) cells: Vec<(String, f64, Option<f64>)>,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) rows: Vec<Row>,
    contestants: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, scenario: Scenario, contestant: &str, round: u32, figures: Trial) {
        let (scenario, contestant) = (scenario.to_string(), contestant.to_owned());
        self.trials.push(Entry { scenario, contestant, round, figures });
    }

    pub(crate) fn summary(&self, first: &str) -> Summary {
        let mut contestants: Vec<String> = Vec::new();
        let mut figures: BTreeMap<(String, String), BTreeMap<String, BTreeMap<u32, f64>>> = BTreeMap::new();
        for entry in &self.trials {
            if !contestants.contains(&entry.contestant) {
                contestants.push(entry.contestant.clone());
            }
            for (figure, value) in &entry.figures {
                let key = (entry.scenario.clone(), figure.clone());
                let by_round = figures.entry(key).or_default().entry(entry.contestant.clone()).or_default();
                by_round.insert(entry.round, *value);
            }
        }
        let rows = figures.into_iter().map(|((scenario, figure), by_name)| {
            let base = by_name.get(first);
            let cells = contestants.iter().filter_map(|name| {
                let rounds = by_name.get(name)?;
                let ratios: Vec<f64> = rounds
                    .iter()
                    .filter_map(|(round, value)| Some(value / base?.get(round).filter(|b| **b > 0.0)?))
                    .collect();
                let ratio = if ratios.is_empty() { None } else { Some(median(ratios)) };
                Some((name.clone(), median(rounds.values().copied().collect()), ratio))
            });
            Row { cells: cells.collect(), scenario, figure }
        });
        Summary { rows: rows.collect(), contestants }
    }
}

impl Summary {
    /// A Markdown table: the median, and in parentheses the ratio to the first contestant.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("| scenario | figure | {} |\n", self.contestants.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---:|".repeat(self.contestants.len()));
        for row in &self.rows {
            let cells: Vec<String> = self
                .contestants
                .iter()
                .map(|name| match row.cells.iter().find(|(cell, ..)| cell == name) {
                    None => "–".to_owned(),
                    Some((_, value, Some(ratio))) if name != &self.contestants[0] => {
                        format!("{} ({ratio:.2}×)", number(*value))
                    }
                    Some((_, value, _)) => number(*value),
                })
                .collect();
            let _ = writeln!(text, "| {} | {} | {} |", row.scenario, row.figure.trim(), cells.join(" | "));
        }
        text
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() {
        let mut report = Report::default();
        for (round, ours, theirs) in [(0, 1.0, 10.0), (1, 2.0, 4.0), (2, 4.0, 12.0)] {
            let trial = |value| Trial::from([("rate (pods/s)".to_owned(), value)]);
            report.add(Scenario::Churn, "ours", round, trial(ours));
            report.add(Scenario::Churn, "peer", round, trial(theirs));
        }
        let summary = report.summary("ours");
        assert_eq!(summary.rows[0].cells[1], ("peer".to_owned(), 10.0, Some(3.0)));
        let table = "| scenario | figure | ours | peer |\n|---|---|---:|---:|\n\
                     | churn | rate (pods/s) | 2.00 | 10.00 (3.00×) |\n";
        assert_eq!(summary.table(), table);
    }
}
