//! Columns of text.

/// Writes rows as columns: each cell but the last of a row is padded to its column's widest, with `gap` more blanks.
///
/// A column is a run of rows that have it; all rows here have the same number of cells.
pub(super) fn table<const N: usize>(rows: &[[&str; N]], gap: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + gap);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            out.push_str(cell);
            if i + 1 < N {
                out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}
