//! Bar charts of a summary, one SVG per scenario.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Row, Summary};

/// Writes `DIR/<scenario>.svg`.
pub(crate) fn write(folder: &Path, summary: &Summary) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut scenarios: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &summary.rows {
        scenarios.entry(&row.scenario).or_default().push(row);
    }
    for (scenario, rows) in scenarios {
        let file = folder.join(format!("{scenario}.svg"));
        std::fs::write(&file, chart(&rows)).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// One group of bars per figure, each scaled to its own largest value.
fn chart(rows: &[&Row]) -> String {
    const BAR: usize = 18;
    let bars: usize = rows.iter().map(|row| row.cells.len() + 2).sum();
    let height = bars * BAR + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n"
    );
    let mut y = BAR;
    for row in rows {
        let _ = writeln!(svg, "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{}</text>", row.figure.trim());
        y += BAR;
        let most = row.cells.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (name, value, _) in &row.cells {
            let width = value / most * 440.0;
            let top = y - 12;
            let _ = writeln!(
                svg,
                "<text x=\"8\" y=\"{y}\">{name}</text><rect x=\"120\" y=\"{top}\" width=\"{width:.1}\" height=\"14\" \
                 fill=\"#4878a8\"/><text x=\"{:.1}\" y=\"{y}\">{value:.2}</text>",
                width + 126.0
            );
            y += BAR;
        }
        y += BAR;
    }
    svg.push_str("</svg>\n");
    svg
}
