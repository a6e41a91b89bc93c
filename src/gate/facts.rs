//! The hard facts of a text: amounts, dates, times, ranges, links, numbers to call, quoted names.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::base::{numerals, spelling};

/// Facts in a spelling under which equal facts are equal strings (`quantity:3..5 day`).
pub type Facts = BTreeSet<Fact>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    pub kind: FactKind,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FactKind {
    Number,
    Date,
    Time,
    Contact,
    Link,
    Name,
}

/// Compatibility forms folded (full-width digits, ％), lower case, nothing invisible, and no blanks
/// except before Latin words, so that `3 个工作日` and `３个工作日` read alike.
pub fn fold(text: &str) -> String {
    let folded = spelling::plain(text);
    let mut out = String::with_capacity(folded.len());
    let mut chars = folded.chars().peekable();
    while let Some(c) = chars.next() {
        if !c.is_whitespace() || c == '\n' {
            out.push(c);
            continue;
        }
        let word = |c: char| c.is_ascii_alphanumeric();
        let before = out.chars().last().is_some_and(|c| word(c) || ".,!?;:)".contains(c));
        if before && chars.peek().copied().is_some_and(word) {
            out.push(' ');
        }
    }
    out
}

/// Facts of folded text.
pub fn extract(folded: &str) -> Facts {
    split(folded).0
}

/// Facts of folded text, and the words without them. Each rule takes its matches out, so that a telephone number is not read
/// as a range and a date not as three amounts.
pub fn split(folded: &str) -> (Facts, String) {
    let mut facts = Facts::new();
    let counts = |c: &Captures<'_>| !c[1].is_empty() || c.get(2).is_some();
    let word = |c: &Captures<'_>| if counts(c) { c[0].to_owned() } else { "\u{1}".to_owned() };
    let mut rest = UNCOUNTED.replace_all(folded, word).into_owned();
    for rule in RULES.iter() {
        let mut add = |captures: &Captures<'_>| {
            if let Some(value) = (rule.read)(captures) {
                facts.insert(Fact { kind: rule.kind, value });
            }
            if rule.kind == FactKind::Name { captures[0].to_owned() } else { "\u{1}".to_owned() }
        };
        rest = rule.pattern.replace_all(&rest, |c: &Captures<'_>| add(c)).into_owned();
    }
    (facts, rest)
}

struct Rule {
    kind: FactKind,
    pattern: Regex,
    read: fn(&Captures<'_>) -> Option<String>,
}

const NUMBER: &str = r"(?:\d+(?:\.\d+)?[千万亿](?:\d+[百千])+|\d+(?:,\d{3})*(?:\.\d+)?[十百千万亿]*|[零〇一二两三四五六七八九十百千万亿半壹贰叁肆伍陆柒捌玖拾佰仟]+(?:点[零一二三四五六七八九]+)?)";
const DIGIT: &str = "[1-9一二三四五六七八九]";
/// Longest first where one unit begins another; any other single character counts as a unit too.
const UNIT: &str = r"(?:个?工作日|个?自然日|个?小时|个?钟头|个?星期|个?礼拜|个?月|个?百分点|分钟|块钱|人民币|美元|公里|千米|公斤|千克|毫升|平方米|[a-z]+|[%‰℃$¥\p{Han}])";

/// Words with a numeral in them that count nothing, unless they are part of a larger numeral or of
/// another word (“一万一千”, “十分钟”, “系统一天内”).
static UNCOUNTED: LazyLock<Regex> = LazyLock::new(|| {
    let numeral = "[零〇一二两三四五六七八九十百千万亿0-9]";
    let pattern = format!(
        "([系传]|{numeral}*)(?:一定|一起|一般|一直|一样|一下|一些|一旦|一切|一律|一致|统一|唯一|万一|十分|第一时间)(钟|{numeral})?"
    );
    #[expect(clippy::expect_used, reason = "a constant pattern, compiled by every test")]
    Regex::new(&pattern).expect("constant pattern")
});

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |kind, pattern: String, read| Rule {
        kind,
        #[expect(clippy::expect_used, reason = "a constant pattern, compiled by every test")]
        pattern: Regex::new(&pattern).expect("constant pattern"),
        read,
    };
    let n = NUMBER;
    vec![
        rule(FactKind::Name, r#"《([^《》]+)》|“([^“”]+)”|「([^「」]+)」|"([^"]+)""#.to_owned(), name),
        rule(FactKind::Contact, r"[a-z0-9._+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+".to_owned(), whole),
        rule(
            FactKind::Link,
            r"(?:https?://|www\.)[a-z0-9._~:/?#@!$&'*+=%-]+|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|cn|net|org|io|top|cc|vip|xyz|info)(?-u:\b)[a-z0-9._~:/?#@!$&'*+=%-]*"
                .to_owned(),
            link,
        ),
        rule(
            FactKind::Contact,
            r"(?-u:\b)(?:\+?86-?)?1[3-9]\d(?:-?\d{4}){2}(?-u:\b)|(?-u:\b)0\d{2,3}-\d{7,8}(?-u:\b)|(?-u:\b)[48]00-?\d{3}-?\d{4}(?-u:\b)|(?-u:\b)(?:95|12|10)\d{3}(?-u:\b)"
                .to_owned(),
            digits,
        ),
        rule(
            FactKind::Date,
            format!("(?:({n})年)?({n})月({n})[日号]|()(\\d{{4}})[-/.](\\d{{1,2}})[-/.](\\d{{1,2}})"),
            date,
        ),
        // Before times: the point of 百分之三点五 is no hour.
        rule(
            FactKind::Number,
            format!("(百分之|千分之|万分之)({n})(?:(?:-|~|至|到)(?:百分之|千分之|万分之)?({n}))?"),
            share,
        ),
        rule(
            FactKind::Time,
            format!(
                "(凌晨|早上|早晨|上午|中午|下午|傍晚|晚上)?(?:(\\d{{1,2}}):(\\d{{2}})|({n})[点时](?:({n})分|(半))?)"
            ),
            time,
        ),
        rule(
            FactKind::Date,
            format!("每个?月的?({n})[日号]|[本当次下]个?月的?({n})[日号]"),
            day_of_month,
        ),
        // Two digits that follow one another are a range.
        rule(
            FactKind::Number,
            "(一两|一二|两三|二三|三四|三五|四五|五六|六七|七八|八九)(个?工作日|个?自然日|个?小时|个?钟头|个?星期|个?月|分钟|天|日|周|元|块|次|倍|件)"
                .to_owned(),
            about,
        ),
        rule(
            FactKind::Number,
            format!("({n})[块元]({DIGIT})[毛角]|({n})块({DIGIT})"),
            coins,
        ),
        rule(FactKind::Number, "(?:周|星期|礼拜)([一二三四五六日天1-7])".to_owned(), weekday),
        rule(
            FactKind::Number,
            format!("([¥$])?({n})({UNIT})?(?:-|~|—+|–|至|到)[¥$]?({n})({UNIT})?"),
            range,
        ),
        rule(FactKind::Number, format!("([¥$])?({n})({UNIT})?"), amount),
    ]
});

fn whole(c: &Captures<'_>) -> Option<String> {
    Some(c[0].to_owned())
}

fn name(c: &Captures<'_>) -> Option<String> {
    c.iter().skip(1).flatten().next().map(|m| m.as_str().to_owned())
}

fn link(c: &Captures<'_>) -> Option<String> {
    Some(c[0].trim_end_matches(['.', '/', '?', '!', ':']).to_owned())
}

fn digits(c: &Captures<'_>) -> Option<String> {
    Some(c[0].chars().filter(char::is_ascii_digit).collect())
}

fn date(c: &Captures<'_>) -> Option<String> {
    let part = |i: usize, j: usize| match c.get(i).or_else(|| c.get(j)) {
        Some(m) => numerals::canonical(m.as_str()),
        None => Some(String::from("any")),
    };
    Some(format!("{}-{}-{}", part(1, 5)?, part(2, 6)?, part(3, 7)?))
}

/// Minutes after midnight, 下午 and 晚上 counted.
fn time(c: &Captures<'_>) -> Option<String> {
    let number = |i: usize| c.get(i).map(|m| numerals::canonical(m.as_str()));
    let value = |text: Option<Option<String>>| match text {
        Some(text) => text?.parse::<f64>().ok(),
        None => Some(0.0),
    };
    let mut hour = value(number(2).or_else(|| number(4)))?;
    let minute = if c.get(6).is_some() { 30.0 } else { value(number(3).or_else(|| number(5)))? };
    let afternoon = c.get(1).is_some_and(|m| matches!(m.as_str(), "下午" | "傍晚" | "晚上"));
    if afternoon && hour < 12.0 {
        hour += 12.0;
    }
    Some(format!("{hour}:{minute}"))
}

fn weekday(c: &Captures<'_>) -> Option<String> {
    let day = match &c[1] {
        "日" | "天" | "7" => "7".to_owned(),
        other => numerals::canonical(other)?,
    };
    Some(format!("weekday {day}"))
}

/// Which month is meant stays part of the fact.
fn day_of_month(c: &Captures<'_>) -> Option<String> {
    let day = numerals::canonical(c.get(1).or_else(|| c.get(2))?.as_str())?;
    let month: String = c[0].chars().next().into_iter().collect();
    Some(format!("{month} month day {day}"))
}

/// 三五天, 两三个小时.
fn about(c: &Captures<'_>) -> Option<String> {
    let mut digits = c[1].chars().map(|digit| value(&digit.to_string()));
    let (low, high) = (digits.next()??, digits.next()??);
    Some(between(low, high, unit(&c[2])))
}

/// 9块9, 3元5角.
fn coins(c: &Captures<'_>) -> Option<String> {
    let part = |i: usize, j: usize| value(c.get(i).or_else(|| c.get(j))?.as_str());
    Some(format!("{} yuan", rounded(part(1, 3)? + part(2, 4)? / 10.0)))
}

fn share(c: &Captures<'_>) -> Option<String> {
    let named = match &c[1] {
        "千分之" => "‰",
        "万分之" => "‱",
        _ => "percent",
    };
    match c.get(3) {
        Some(high) => Some(between(value(&c[2])?, value(high.as_str())?, named)),
        None => Some(of_unit(value(&c[2])?, named)),
    }
}

/// An end without a unit of its own has the other one's (“三到五天”, “3天至2周”).
fn range(c: &Captures<'_>) -> Option<String> {
    let named = |own: usize, other: usize| {
        let written = c.get(1).or_else(|| c.get(own)).or_else(|| c.get(other));
        written.map_or("", |m| unit(m.as_str()))
    };
    let (low, of_low) = measure(value(&c[2])?, named(3, 5));
    let (high, of_high) = measure(value(&c[4])?, named(5, 3));
    if of_low == of_high {
        return Some(format!("{low}..{high} {of_low}"));
    }
    Some(format!("{low} {of_low}..{high} {of_high}"))
}

fn amount(c: &Captures<'_>) -> Option<String> {
    let named = c.get(1).or_else(|| c.get(3)).map_or("", |m| unit(m.as_str()));
    let digits = numerals::canonical(&c[2])?;
    // Order numbers are longer than any amount; they are kept to the digit.
    if digits.len() > AMOUNT_DIGITS {
        return Some(format!("{digits} {named}"));
    }
    Some(of_unit(value(&c[2])?, named))
}

fn between(low: f64, high: f64, named: &str) -> String {
    let ((low, unit), (high, _)) = (measure(low, named), measure(high, named));
    format!("{low}..{high} {unit}")
}

fn of_unit(value: f64, named: &str) -> String {
    let (value, unit) = measure(value, named);
    format!("{value} {unit}")
}

/// Digits that a float holds exactly.
const AMOUNT_DIGITS: usize = 15;

fn value(numeral: &str) -> Option<f64> {
    numerals::canonical(numeral)?.parse().ok()
}

/// Units of one kind in the one among them that all others are exact multiples or parts of. Days
/// and hours stay apart: what takes 48 hours need not be what takes two days of business.
fn measure(value: f64, unit: &str) -> (f64, &str) {
    let (factor, unit) = match unit {
        "‰" => (0.1, "percent"),
        "‱" => (0.01, "percent"),
        "week" => (7.0, "day"),
        // 2026年 is no stretch of time.
        "year" if value < 1000.0 => (12.0, "month"),
        "hour" => (60.0, "minute"),
        "公斤" | "千克" | "kg" => (1e3, "gram"),
        "克" | "g" => (1.0, "gram"),
        "斤" => (500.0, "gram"),
        "公里" | "千米" | "km" => (1e3, "metre"),
        "米" | "m" => (1.0, "metre"),
        other => (1.0, other),
    };
    (rounded(value * factor), unit)
}

/// Products such as 0.1 × 3 must print like the number they mean.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// One name per unit.
fn unit(written: &str) -> &str {
    match written {
        "%" => "percent",
        "元" | "块" | "块钱" | "人民币" | "¥" | "rmb" | "yuan" => "yuan",
        "$" | "美元" | "usd" => "usd",
        "天" | "日" | "day" | "days" => "day",
        "工作日" | "个工作日" => "workday",
        "自然日" | "个自然日" => "calendar day",
        "小时" | "个小时" | "钟头" | "个钟头" | "h" | "hour" | "hours" => "hour",
        "分钟" | "minute" | "minutes" | "min" => "minute",
        "周" | "星期" | "个星期" | "礼拜" | "个礼拜" | "week" | "weeks" => "week",
        "个月" | "month" | "months" => "month",
        "年" | "year" | "years" => "year",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        extract(&fold(text)).into_iter().map(|f| f.value).collect()
    }

    #[test]
    fn one_fact_in_many_spellings() {
        for group in [
            &["三到五天", "3-5天", "3至5天", "３～５天", "3天到5天", "3 - 5 天"][..],
            &["百分之三", "3%", "３％"],
            &["百分之三点五", "3.5%"],
            &["百分之三到百分之五", "3%-5%", "百分之三至五"],
            &["30元", "三十块钱", "¥30", "30 元", "￥30"],
            &["1千元", "1000元", "一千块", "1,000元"],
            &["2026年5月1日", "2026-05-01", "2026/5/1", "二〇二六年五月一日"],
            &["下午三点半", "15:30", "下午3:30"],
            &["7个工作日", "七个工作日", "7 工作日"],
            &["周三", "星期三", "礼拜3"],
            &["400-123-4567", "4001234567"],
            &["系统一天内", "一天内", "1天"],
            &["十分钟", "10分钟"],
            &["半年", "0.5年", "6个月", "六个月"],
            &["两周", "14天", "2个星期"],
            &["半小时", "30分钟", "半个钟头"],
            &["一年", "12个月"],
            &["3公斤", "3kg", "6斤", "3000克"],
            &["万分之五", "0.05%", "百分之零点零五", "0.5‰"],
            &["三五天", "3-5天"],
            &["两三个小时", "2到3小时"],
            &["9块9", "9.9元", "九块九", "9元9角"],
            &["3万5千元", "35000元", "三万五千元", "3.5万元"],
            &["每月15日", "每个月15号", "每月十五号"],
        ] {
            let first = values(group[0]);
            assert_eq!(first.len(), 1, "{}: {first:?}", group[0]);
            for text in &group[1..] {
                assert_eq!(values(text), first, "{text}");
            }
        }
    }

    #[test]
    fn different_facts_differ() {
        for (a, b) in [
            ("3天", "3个工作日"),
            ("3天至2周", "3小时至2周"),
            ("30秒-2小时", "30分钟-2小时"),
            ("十分钟内", "十分感谢"),
            ("一万一千元", "一千元"),
            ("每月15日", "15日"),
            ("每月15日", "次月15日"),
            ("48小时", "2天"),
            ("三五天", "35天"),
            ("千分之五", "百分之五"),
            ("3元", "3折"),
            ("5月1日", "6月1日"),
            ("2025年5月1日", "5月1日"),
            ("上午9点", "晚上9点"),
            ("3-5天", "5天"),
            ("《用户协议》", "《隐私协议》"),
            ("www.a.com/x", "www.a.com/y"),
        ] {
            assert_ne!(values(a), values(b), "{a} / {b}");
        }
    }

    #[test]
    fn links_and_addresses_are_whole() {
        assert_eq!(values("见https://a.example.com/b?c=1。"), ["https://a.example.com/b?c=1"]);
        assert_eq!(values("邮箱help@example.com，"), ["help@example.com"]);
    }

    #[test]
    fn text_without_facts_has_none() {
        assert!(values("这边一定帮您看一下").is_empty());
        assert!(values("请在订单页点击申请退款").is_empty());
        assert!(values("十分抱歉，万一没收到，第一时间统一处理").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = extract(&fold(&text));
        }
    }
}
