//! Rule packs over outgoing text: what law or policy forbids, with the contexts in which it is harmless.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use crate::domain::knowledge::{Entry, Nature};
use crate::gate::facts;

/// What a hit means for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The text does not leave by itself.
    Block,
    /// The text may leave; the owner is told.
    Review,
}

/// One rule that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// `adlaw.superlative`.
    pub rule: String,
    pub action: Action,
    /// The words that tripped it, folded.
    pub found: String,
    pub law: String,
    pub message_zh: String,
    pub message_en: String,
    /// Role that answers for the rule.
    pub owner: String,
    /// The same in words that may be said; a person decides whether they are true.
    pub instead: Option<String>,
}

/// What the operator declared harmless.
#[derive(Clone, Debug, Default)]
pub struct AllowLists {
    /// Numbers customers may be told to call.
    pub service_numbers: Vec<String>,
    /// Hosts that may be linked to, with everything below them (`example.com`).
    pub link_hosts: Vec<String>,
}

/// A pack that cannot be used; correct the file.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("{file}: {reason}")]
    Pack { file: String, reason: String },
    #[error("{file}: rule {id}: {reason}")]
    Rule { file: String, id: String, reason: String },
}

/// What finds claims.
const ADVERTISING: (&str, &str) =
    ("config/rules/adlaw.toml", include_str!("../../config/rules/adlaw.toml"));

/// The packs that come with the service.
const PACKS: [(&str, &str); 5] = [
    ADVERTISING,
    ("config/rules/finance.toml", include_str!("../../config/rules/finance.toml")),
    ("config/rules/medical.toml", include_str!("../../config/rules/medical.toml")),
    ("config/rules/privacy.toml", include_str!("../../config/rules/privacy.toml")),
    ("config/rules/links.toml", include_str!("../../config/rules/links.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackFile {
    law: String,
    owner: String,
    rule: Vec<RuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    id: String,
    action: Action,
    law: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    patterns: Vec<String>,
    matcher: Option<Matcher>,
    #[serde(default)]
    allow: Vec<String>,
    /// Pairs of a pattern within what was found, and the words to say in its place.
    #[serde(default)]
    instead: Vec<(String, String)>,
    message_zh: String,
    message_en: String,
}

/// Shapes that need arithmetic or the operator's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Matcher {
    Mobile,
    IdCard,
    BankCard,
    Link,
}

struct Rule {
    id: String,
    action: Action,
    law: String,
    owner: String,
    message_zh: String,
    message_en: String,
    finder: Regex,
    matcher: Option<Matcher>,
    /// A match inside a match of this is harmless.
    allow: Option<Regex>,
    instead: Vec<(Regex, String)>,
}

/// Compiled packs.
pub struct Compliance {
    rules: Vec<Rule>,
    lists: AllowLists,
}

impl Compliance {
    /// The packs that come with the service.
    pub fn standard(lists: AllowLists) -> Result<Self, RuleError> {
        Self::from_packs(&PACKS, lists)
    }

    /// Packs as (file name, TOML text); patterns see folded text (lower case, half width, no
    /// blanks between Chinese characters).
    pub fn from_packs(packs: &[(&str, &str)], lists: AllowLists) -> Result<Self, RuleError> {
        let mut rules: Vec<Rule> = Vec::new();
        for (file, text) in packs {
            let pack: PackFile = toml::from_str(text)
                .map_err(|e| RuleError::Pack { file: (*file).to_owned(), reason: e.to_string() })?;
            let (law, owner) = (pack.law, pack.owner);
            for rule in pack.rule {
                let id = rule.id.clone();
                let bad = |reason| RuleError::Rule { file: (*file).to_owned(), id, reason };
                if rules.iter().any(|r| r.id == rule.id) {
                    return Err(bad("the id is taken".to_owned()));
                }
                rules.push(Rule::compile(rule, &law, &owner).map_err(bad)?);
            }
        }
        let fold_all = |list: Vec<String>| list.iter().map(|s| facts::fold(s)).collect();
        let lists = AllowLists {
            service_numbers: lists.service_numbers.iter().map(|n| digits_of(n)).collect(),
            link_hosts: fold_all(lists.link_hosts),
        };
        Ok(Self { rules, lists })
    }

    /// At most one hit per rule, in the order of the packs.
    pub fn check(&self, text: &str) -> Vec<Hit> {
        let folded = facts::fold(text);
        self.rules.iter().filter_map(|rule| rule.find(&folded, &self.lists)).collect()
    }
}

/// Whether an entry's answer is marketing text: it is marked so, or the advertising rules find claims
/// in it.
pub fn is_marketing(entry: &Entry) -> bool {
    static ADVERTISED: LazyLock<Compliance> = LazyLock::new(|| {
        Compliance::from_packs(&[ADVERTISING], AllowLists::default())
            .expect("the pack is compiled in and tested")
    });
    let mut texts = entry.answer.iter().chain(entry.wordings.values());
    entry.nature == Nature::Marketing || texts.any(|text| !ADVERTISED.check(text).is_empty())
}

impl Rule {
    fn compile(file: RuleFile, law: &str, owner: &str) -> Result<Self, String> {
        let finder = match (file.matcher, file.patterns.is_empty()) {
            (Some(matcher), true) => matcher.shape().to_owned(),
            (None, false) => file.patterns.join("|"),
            (Some(_), false) | (None, true) => {
                return Err("needs either patterns or a matcher".to_owned());
            }
        };
        let regex = |pattern: &str| Regex::new(pattern).map_err(|e| e.to_string());
        let finder = regex(&finder)?;
        if finder.is_match("") {
            return Err("a pattern matches the empty text".to_owned());
        }
        let allow = if file.allow.is_empty() { None } else { Some(regex(&file.allow.join("|"))?) };
        let instead = file.instead.iter().map(|(found, words)| Ok((regex(found)?, words.clone())));
        let instead = instead.collect::<Result<_, String>>()?;
        if file.id.is_empty() || file.message_zh.is_empty() || file.message_en.is_empty() {
            return Err("id and messages must not be empty".to_owned());
        }
        Ok(Self {
            id: file.id,
            action: file.action,
            law: file.law.unwrap_or_else(|| law.to_owned()),
            owner: file.owner.unwrap_or_else(|| owner.to_owned()),
            message_zh: file.message_zh,
            message_en: file.message_en,
            finder,
            matcher: file.matcher,
            allow,
            instead,
        })
    }

    fn find(&self, folded: &str, lists: &AllowLists) -> Option<Hit> {
        let harmless: Vec<Range<usize>> = match &self.allow {
            Some(allow) => allow.find_iter(folded).map(|m| m.range()).collect(),
            None => Vec::new(),
        };
        let inside =
            |m: &Range<usize>| harmless.iter().any(|a| a.start <= m.start && m.end <= a.end);
        let counts = |found: &str| self.matcher.is_none_or(|m| m.accepts(found, lists));
        let hit =
            self.finder.find_iter(folded).find(|m| !inside(&m.range()) && counts(m.as_str()))?;
        let found = hit.as_str();
        let better = |(pattern, words): &(Regex, String)| {
            pattern.is_match(found).then(|| pattern.replace_all(found, words).into_owned())
        };
        // While nobody has listed any host, a link in an approved text is only pointed out.
        let unlisted = self.matcher == Some(Matcher::Link) && lists.link_hosts.is_empty();
        Some(Hit {
            rule: self.id.clone(),
            action: if unlisted { Action::Review } else { self.action },
            found: found.to_owned(),
            instead: self.instead.iter().find_map(better),
            law: self.law.clone(),
            message_zh: self.message_zh.clone(),
            message_en: self.message_en.clone(),
            owner: self.owner.clone(),
        })
    }
}

impl Matcher {
    /// What to look at more closely.
    fn shape(self) -> &'static str {
        match self {
            Self::Mobile => r"\d{12,}|(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}",
            Self::IdCard => r"\d[\d -]{15,20}[\dx]",
            Self::BankCard => r"\d[\d -]{11,24}\d",
            Self::Link => {
                r"(?:https?://|www\.)[a-z0-9._~:/?#@!$&'*+=%-]+|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|cn|net|org|io|top|cc|vip|xyz|info)(?-u:\b)"
            }
        }
    }

    /// Whether what has the shape is the thing itself, and is not allowed.
    fn accepts(self, found: &str, lists: &AllowLists) -> bool {
        let digits = digits_of(found);
        let listed = || lists.service_numbers.contains(&digits);
        match self {
            // Longer runs of digits (order numbers) are in the shape only so that no eleven
            // digits out of their middle are taken for a telephone.
            Self::Mobile => {
                let country = digits.len() == 13 && digits.starts_with("86");
                (digits.len() == 11 || country) && !listed()
            }
            Self::IdCard => is_id_card(found),
            Self::BankCard => (16..=19).contains(&digits.len()) && luhn(&digits) && !listed(),
            Self::Link => !host_listed(found, &lists.link_hosts),
        }
    }
}

fn digits_of(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// GB 11643-1999: seventeen digits weighted by 2^(17 − i) mod 11 give the eighteenth.
fn is_id_card(text: &str) -> bool {
    let signs: Vec<char> = text.chars().filter(|c| c.is_ascii_digit() || *c == 'x').collect();
    let [body @ .., check] = signs.as_slice() else { return false };
    let digits: Option<Vec<u32>> = body.iter().map(|c| c.to_digit(10)).collect();
    let Some(digits) = digits.filter(|d| d.len() == 17) else { return false };
    let sum = digits.iter().fold(0, |sum, d| (sum + d) * 2 % 11);
    let expected = (12 - sum) % 11;
    check.to_digit(10).unwrap_or(10) == expected
}

/// ISO/IEC 7812-1, the check digit of payment cards.
fn luhn(digits: &str) -> bool {
    let mut sum = 0;
    for (i, d) in digits.chars().rev().filter_map(|c| c.to_digit(10)).enumerate() {
        let doubled = if i % 2 == 1 { d * 2 } else { d };
        sum += doubled / 10 + doubled % 10;
    }
    sum % 10 == 0
}

fn host_listed(link: &str, hosts: &[String]) -> bool {
    let bare = link.trim_start_matches("http://").trim_start_matches("https://");
    let authority = bare.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ is not the host.
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.');
    let below = |listed: &String| {
        host == listed || host.strip_suffix(listed.as_str()).is_some_and(|h| h.ends_with('.'))
    };
    hosts.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::EntryId;
    use crate::domain::message::AccountName;

    fn rules(text: &str) -> Vec<String> {
        let lists = AllowLists {
            service_numbers: vec!["138-0000-1111".into()],
            link_hosts: vec!["example.com".into()],
        };
        let compliance = Compliance::standard(lists).expect("the standard packs load");
        compliance.check(text).into_iter().map(|h| h.rule).collect()
    }

    #[test]
    fn claims_trip() {
        for (text, rule) in [
            ("我们的产品是最佳的", "adlaw.superlative"),
            ("本店全网最低价", "adlaw.superlative"),
            ("销量全国第一", "adlaw.first"),
            ("国家级品质", "adlaw.rank"),
            ("本品绝对安全", "adlaw.certainty"),
            ("这款理财保本，稳赚不赔", "finance.guaranteed_yield"),
            ("年化收益率高达8%", "finance.guaranteed_yield"),
            ("资料齐全保证下款", "finance.guaranteed_loan"),
            ("本品可治疗糖尿病", "medical.cure"),
            ("长期饮用可以降血压", "medical.effect"),
            ("这边给您赔付50元", "finance.compensation"),
            ("本店假一赔十", "finance.compensation"),
            ("分享到朋友圈后即可领取", "links.inducement"),
        ] {
            assert!(rules(text).contains(&rule.to_owned()), "{text}: {:?}", rules(text));
        }
    }

    #[test]
    fn a_mark_or_a_claim_makes_marketing_text() {
        let entry = |answer: &str, nature| Entry {
            answer: Some(answer.into()),
            nature,
            ..Entry::new(EntryId("a".into()), "周末有活动吗".into())
        };
        assert!(is_marketing(&entry("周末满减。", Nature::Marketing)));
        assert!(is_marketing(&entry("本店全网最低价。", Nature::Service)));
        assert!(!is_marketing(&entry("三天内到账，保本。", Nature::Service)), "another pack's");
        let mut worded = entry("满减。", Nature::Service);
        worded.wordings.insert(AccountName("kf".into()), "全网最低价。".into());
        assert!(is_marketing(&worded));
    }

    #[test]
    fn everyday_words_do_not_trip() {
        for text in [
            "第一步，打开设置。第二步，点击提交。",
            "这是最后一次提醒，最晚今天18点前处理。",
            "第一次使用请先登录，最近的门店在楼下。",
            "我们会第一时间为您处理。",
            "请更新到最新版本后重试。",
            "单笔最高可借5万元，最低还款额以账单为准。",
            "建议您最好先备份数据。",
            "学生发票可以补开吗？可以的。",
            "本产品不保本，不承诺收益。",
            "注销后账号将永久删除。",
            "请尽快就医，遵医嘱进行治疗。",
            "订单号061210801325700，运费8元。",
            "请确保本人操作，我们担保息费透明。",
            "提交后不一定能通过审核，我们无法保证放款。",
            "站点今天能送到是最好。",
            "绝对不要把验证码告诉别人，我们会尽最大努力。",
            "请警惕收费“修复征信”的说法。我们未委托任何人代办提额或修复征信。",
            "结清证明是唯一的办法，唯一有效凭证以合同为准。",
        ] {
            assert!(rules(text).is_empty(), "{text}: {:?}", rules(text));
        }
    }

    #[test]
    fn better_words_are_offered_where_there_are_some() {
        let compliance = Compliance::standard(AllowLists::default()).unwrap();
        let instead = |text: &str| compliance.check(text).remove(0).instead;
        assert_eq!(instead("本店全网最低价").as_deref(), Some("优惠价"));
        assert_eq!(instead("这款保本").as_deref(), Some("不承诺收益"));
        assert_eq!(instead("见evil.cn"), None);
    }

    #[test]
    fn personal_data_is_found_by_its_checksum() {
        // Made up: digits chosen so that the check digit fits.
        assert_eq!(rules("身份证11010519491231002X"), ["privacy.id_card"]);
        assert!(rules("身份证110105194912310021").is_empty());
        assert_eq!(rules("卡号4111 1111 1111 1111"), ["privacy.bank_card"]);
        assert!(rules("卡号4111 1111 1111 1112").is_empty());
        assert_eq!(rules("请打１３９ ０００0 2222"), ["privacy.mobile"]);
        assert_eq!(rules("请打8613900002222"), ["privacy.mobile"]);
        assert!(rules("客服 13800001111").is_empty());
        assert!(rules("单号139000022221234，SF5699470850131").is_empty());
    }

    #[test]
    fn only_listed_hosts_may_be_linked() {
        assert!(rules("见https://help.example.com/a?b=1。").is_empty());
        for text in [
            "见https://example.com.evil.net/",
            "见http://notexample.com",
            "见http://example.com@evil.net/",
            "见evil.cn",
        ] {
            assert_eq!(rules(text), ["links.off_list"], "{text}");
        }
    }

    #[test]
    fn without_a_list_a_link_is_pointed_out() {
        let action = |hosts: &[&str]| {
            let link_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let lists = AllowLists { link_hosts, ..AllowLists::default() };
            Compliance::standard(lists).unwrap().check("见https://help.example.net/a")[0].action
        };
        assert_eq!(action(&[]), Action::Review);
        assert_eq!(action(&["example.com"]), Action::Block);
    }

    #[test]
    fn bad_rules_are_named_by_file_and_id() {
        let load = |text: &str| {
            let made = Compliance::from_packs(&[("x.toml", text)], AllowLists::default());
            made.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let rule = |extra: &str| {
            format!(
                "law='a'\nowner='b'\n[[rule]]\nid='x.y'\naction='block'\nmessage_zh='m'\nmessage_en='m'\n{extra}"
            )
        };
        assert_eq!(load(&rule("patterns=['ok']")), "");
        for broken in ["patterns=['(']", "patterns=['a*']", "", "matcher='link'\npatterns=['a']"] {
            assert!(load(&rule(broken)).starts_with("x.toml: rule x.y: "), "{broken}");
        }
        assert!(load(&rule("patterns=['a']\nextra=1")).starts_with("x.toml: "));
        assert!(load("law=").starts_with("x.toml: "));
        let twice = rule(
            "patterns=['a']\n[[rule]]\nid='x.y'\naction='review'\npatterns=['b']\nmessage_zh='m'\nmessage_en='m'",
        );
        assert!(load(&twice).contains("taken"));
    }
}
