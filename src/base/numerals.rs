//! Arabic and Chinese numerals to one value: 三十 = 30, 两百 = 200, 1千 = 1000, 二〇二六 = 2026.

/// A numeral in the spelling that equal values share, or `None` when the text is no numeral.
/// Expects compatibility-folded text (no full-width digits).
pub fn canonical(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ',').collect();
    if digits.chars().all(|c| c.is_ascii_digit()) && digits.len() > 15 {
        // Order numbers do not fit into a float; they are names, not amounts.
        return Some(digits);
    }
    let value = match digits.chars().next()? {
        '0'..='9' => arabic(&digits)?,
        _ => chinese(&digits)?,
    };
    Some(format!("{value}"))
}

/// True for the characters of Chinese numerals, the magnitudes included.
pub fn is_chinese_numeral(c: char) -> bool {
    digit(c).is_some() || magnitude(c).is_some()
}

/// `12.5`, or with magnitudes behind it: `1.2万`, `3千`, `3万5千`.
fn arabic(text: &str) -> Option<f64> {
    let mut value = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(end);
        let mut part: f64 = digits.parse().ok()?;
        let next = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        for c in behind[..next].chars() {
            part *= magnitude(c)?;
        }
        value += part;
        rest = &behind[next..];
    }
    // Products such as 1.1 × 10 000 must print like the number they mean.
    Some((value * 1e6).round() / 1e6)
}

fn chinese(text: &str) -> Option<f64> {
    let (whole, fraction) = match text.split_once('点') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let mut value = if whole.chars().all(|c| digit(c).is_some()) {
        spelled_digits(whole)?
    } else {
        with_magnitudes(whole)?
    };
    if let Some(fraction) = fraction {
        let scale = 10_f64.powi(i32::try_from(fraction.chars().count()).ok()?);
        value += spelled_digits(fraction)? / scale;
    }
    Some(value)
}

/// 二〇二六, 三, 半.
fn spelled_digits(text: &str) -> Option<f64> {
    let mut value = 0.0;
    for c in text.chars() {
        value = value * 10.0 + digit(c)?;
    }
    (!text.is_empty()).then_some(value)
}

/// 三百二十, 十五, 两万五 (= 25 000), 一亿零三.
fn with_magnitudes(text: &str) -> Option<f64> {
    let (mut total, mut section, mut pending) = (0.0, 0.0, None);
    let mut last_magnitude = 1.0;
    for c in text.chars() {
        if let Some(d) = digit(c) {
            if d == 0.0 {
                last_magnitude = 1.0;
            }
            pending = Some(d);
            continue;
        }
        let m = magnitude(c)?;
        if m >= 10_000.0 {
            total = (total + section + pending.take().unwrap_or(0.0)).max(1.0) * m;
            section = 0.0;
        } else {
            section += pending.take().unwrap_or(1.0) * m;
        }
        last_magnitude = m;
    }
    // A digit right behind a magnitude counts in tenths of it: 两万五.
    let tail =
        pending.map_or(0.0, |d| if last_magnitude > 10.0 { d * last_magnitude / 10.0 } else { d });
    Some(total + section + tail)
}

fn digit(c: char) -> Option<f64> {
    let value = match c {
        '零' | '〇' => 0.0,
        '半' => 0.5,
        '一' | '壹' => 1.0,
        '二' | '两' | '贰' => 2.0,
        '三' | '叁' => 3.0,
        '四' | '肆' => 4.0,
        '五' | '伍' => 5.0,
        '六' | '陆' => 6.0,
        '七' | '柒' => 7.0,
        '八' | '捌' => 8.0,
        '九' | '玖' => 9.0,
        _ => return None,
    };
    Some(value)
}

fn magnitude(c: char) -> Option<f64> {
    let value = match c {
        '十' | '拾' => 10.0,
        '百' | '佰' => 100.0,
        '千' | '仟' => 1e3,
        '万' => 1e4,
        '亿' => 1e8,
        _ => return None,
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_spelling() {
        for (text, wanted) in [
            ("三十", "30"),
            ("十五", "15"),
            ("两百", "200"),
            ("1千", "1000"),
            ("1.1万", "11000"),
            ("3万5千", "35000"),
            ("1万2千3百", "12300"),
            ("3,000", "3000"),
            ("二〇二六", "2026"),
            ("三百零五", "305"),
            ("三百五", "350"),
            ("两万五", "25000"),
            ("二十五万", "250000"),
            ("一亿零三", "100000003"),
            ("三点五", "3.5"),
            ("半", "0.5"),
            ("07", "7"),
            ("12345678901234567890", "12345678901234567890"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(canonical("退款"), None);
        assert_eq!(canonical(""), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[0-9,.点零一二两三十百千万亿半]{0,12}") {
            let _ = canonical(&text);
        }
    }
}
