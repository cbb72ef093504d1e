//! What commands print for people.

use std::path::Path;

use ddp_contract::text::{printable_json, printable_line};

/// A cell that is wider (a metric's or a tensor's name can have any length) makes its own line longer, not all others.
const WIDEST: usize = 120;

/// Lines of columns that are as wide as their widest cell. Those of `right` are aligned to the right; the last column is
/// as long as it is.
///
/// Cells may hold text of files: what a terminal would obey is escaped.
pub(super) fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> Vec<String> {
    let rows = rows.iter().map(|row| row.each_ref().map(|cell| printable_line(cell).into_owned()));
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST);
    let widths: Vec<_> = (0..N).map(width).collect();
    let cell = |column: usize, text: &String| match widths[column] {
        width if right.contains(&column) => format!("{text:>width$}"),
        _ if column + 1 == N => text.clone(),
        width => format!("{text:<width$}"),
    };
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().enumerate().map(|(column, text)| cell(column, text)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A path on one line, with what a terminal would obey escaped.
pub(super) fn path(path: &Path) -> String {
    printable_line(&path.to_string_lossy()).into_owned()
}

/// `1.2 GB`, with the unit that fits.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A number with as many digits as people read.
pub(super) fn number(metric: f64) -> String {
    let text = format!("{metric:.6}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if metric != 0.0 && !(1e-3..1e9).contains(&metric.abs()) && !metric.is_nan() {
        format!("{metric:.3e}")
    } else {
        short.to_owned()
    }
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> crate::Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|err| crate::Error::system("can't write JSON")(err.into()))?;
    println!("{}", printable_json(&text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_short() {
        let rows = [["A", "B", "C"], ["long", "1", "the rest"], ["x", "12", ""]].map(|row| row.map(str::to_owned));
        let tensor = [["\u{1b}[2J\n".to_owned(), "x".to_owned()]];
        assert_eq!(table(&tensor, &[]), [r"\u{1b}[2J\n  x"]);
        assert_eq!(table(&rows, &[1]), ["A      B  C", "long   1  the rest", "x     12"]);
        let long = "x".repeat(70_000);
        let rows = [[long.clone(), "1".into(), "2".into()], ["y".into(), "1".into(), "2".into()]];
        let lines = table(&rows, &[1]);
        assert_eq!((lines[0].len(), lines[1].len()), (long.len() + 6, WIDEST + 6));
        let numbers = [0.25, 12.0, 0.0, 1.0 / 3.0, -2.5e-5, 1e15, f64::NAN].map(number);
        assert_eq!(numbers, ["0.25", "12", "0", "0.333333", "-2.500e-5", "1.000e15", "NaN"]);
        assert_eq!([size(7), size(1500), size(2_500_000_000)], ["7 B", "1.5 kB", "2.5 GB"]);
    }
}
