//! Rule packs over outgoing text: what law or policy forbids, with the contexts in which it is harmless.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use crate::base::spelling;
use crate::domain::knowledge::{Entry, Nature};
use crate::gate::facts;

mod matchers;

use matchers::{Matcher, digits_of};

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

struct Rule {
    id: String,
    action: Action,
    law: String,
    owner: String,
    message_zh: String,
    message_en: String,
    finder: Finder,
    /// A match inside a match of this is harmless.
    allow: Option<Regex>,
    instead: Vec<(Regex, String)>,
}

enum Finder {
    Words(Regex),
    Shape(Matcher),
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

    /// Packs as (file name, TOML text); patterns see folded text (lower case, half width, simplified,
    /// nothing invisible, no blanks between Chinese characters), and see it once more without line
    /// breaks and marks inside Chinese words (`保·本`).
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
        let fold_all = |list: Vec<String>| list.iter().map(|s| fold(s)).collect();
        let lists = AllowLists {
            service_numbers: lists.service_numbers.iter().map(|n| digits_of(n)).collect(),
            link_hosts: fold_all(lists.link_hosts),
        };
        Ok(Self { rules, lists })
    }

    /// At most one hit per rule, in the order of the packs.
    pub fn check(&self, text: &str) -> Vec<Hit> {
        let folded = fold(text);
        let (closed, seams) = spelling::closed(&folded, &spelling::gaps(&folded));
        let found = self.rules.iter().filter_map(|rule| {
            let found = match &rule.finder {
                Finder::Shape(matcher) => matcher.find(&folded, &self.lists).map(|r| &folded[r]),
                Finder::Words(words) => {
                    let first = rule.words(words, &folded).into_iter().next();
                    first.map(|r| &folded[r]).or_else(|| {
                        let mut torn = rule.words(words, &closed).into_iter();
                        torn.find(|range| spelling::crosses(range, &seams)).map(|r| &closed[r])
                    })
                }
            };
            Some(rule.hit(found?, &self.lists))
        });
        found.collect()
    }
}

fn fold(text: &str) -> String {
    spelling::simplified(&facts::fold(text))
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
        let regex = |pattern: &str| Regex::new(pattern).map_err(|e| e.to_string());
        let finder = match (file.matcher, file.patterns.is_empty()) {
            (Some(matcher), true) => Finder::Shape(matcher),
            (None, false) => Finder::Words(regex(&file.patterns.join("|"))?),
            (Some(_), false) | (None, true) => {
                return Err("needs either patterns or a matcher".to_owned());
            }
        };
        if matches!(&finder, Finder::Words(words) if words.is_match("")) {
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
            allow,
            instead,
        })
    }

    /// Matches that are not harmless.
    fn words(&self, words: &Regex, text: &str) -> Vec<Range<usize>> {
        let harmless: Vec<Range<usize>> = match &self.allow {
            Some(allow) => allow.find_iter(text).map(|m| m.range()).collect(),
            None => Vec::new(),
        };
        let inside =
            |m: &Range<usize>| harmless.iter().any(|a| a.start <= m.start && m.end <= a.end);
        words.find_iter(text).map(|m| m.range()).filter(|m| !inside(m)).collect()
    }

    fn hit(&self, found: &str, lists: &AllowLists) -> Hit {
        let better = |(pattern, words): &(Regex, String)| {
            pattern.is_match(found).then(|| pattern.replace_all(found, words).into_owned())
        };
        // While nobody has listed any host, a link in an approved text is only pointed out.
        let is_link = matches!(self.finder, Finder::Shape(Matcher::Link));
        let unlisted = is_link && lists.link_hosts.is_empty();
        Hit {
            rule: self.id.clone(),
            action: if unlisted { Action::Review } else { self.action },
            found: found.to_owned(),
            instead: self.instead.iter().find_map(better),
            law: self.law.clone(),
            message_zh: self.message_zh.clone(),
            message_en: self.message_en.clone(),
            owner: self.owner.clone(),
        }
    }
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
            // in another script, or with what nobody sees or reads between
            ("保\u{200b}本，稳\u{200b}赚不赔", "finance.guaranteed_yield"),
            ("保\n本", "finance.guaranteed_yield"),
            ("稳·赚不赔", "finance.guaranteed_yield"),
            ("穩賺不賠", "finance.guaranteed_yield"),
            ("绝\u{200b}对安全", "adlaw.certainty"),
            ("絕對安全，零風險", "adlaw.certainty"),
            ("頂級品質，獨家", "adlaw.rank"),
            ("頂級品質，獨家", "adlaw.first"),
            ("治癒糖尿病", "medical.cure"),
            ("根-治", "medical.cure"),
            ("資料齊全保證下款", "finance.guaranteed_loan"),
            // beside a denial, not denied
            ("不手术即可根治", "medical.cure"),
            ("不吃药就能治愈糖尿病", "medical.cure"),
            ("不吃药就能降血压", "medical.effect"),
            ("不能治疗感冒。本品三天根治高血压，治愈率99%", "medical.cure"),
            ("我们确保本金安全", "finance.guaranteed_yield"),
            ("由平台担保本息", "finance.guaranteed_yield"),
            ("投保本金零损失", "finance.guaranteed_yield"),
            ("保本月月分红", "finance.guaranteed_yield"),
            ("保本周期七天", "finance.guaranteed_yield"),
            ("保本品种", "finance.guaranteed_yield"),
            ("guaranteed returns of 8%", "finance.guaranteed_yield"),
            ("没有前期费用，专业修复征信", "finance.guaranteed_loan"),
            ("委托我们修复征信，七天见效", "finance.guaranteed_loan"),
            ("不提供发票，但可以洗白征信", "finance.guaranteed_loan"),
            ("警惕骗子，我们帮您修复征信", "finance.guaranteed_loan"),
            ("全国最好用的产品", "adlaw.superlative"),
            ("这款面膜最好用", "adlaw.superlative"),
            ("市面上最好选我们", "adlaw.superlative"),
            ("这款性能最好。", "adlaw.superlative"),
            ("好评达到100%", "adlaw.certainty"),
            ("绝对不可能坏", "adlaw.certainty"),
            ("世界一流水平", "adlaw.rank"),
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
            "请确保本次操作由您本人完成，续保本月到期。",
            "这款环保本色纸，质保本店负责。",
            "本品不能代替药物，不能治疗任何疾病。",
            "不具有治疗糖尿病的作用。",
            "请先就医，在医生指导下治疗高血压。",
            "退货最好用原包装寄回，建议最好选大一码。",
            "晚上最好用温水清洗，最好是工作日来电。",
            "进度达到100%后会有短信。",
            "我们不提供修复征信的服务，修复征信都是骗局。",
            "没有任何机构可以修复征信。",
            "我们未委托任何个人或中介代办申请、提额、减免或修复征信。",
            "第一流水线的质检员会联系您，一流水号见短信。",
            "步骤一：打开我的\n本页点确认。",
            "This is no guaranteed return and not risk-free.",
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
        for (rule, texts) in [
            (
                "privacy.mobile",
                &[
                    "请打008613900002222",
                    "139.0000.2222",
                    "139 000 02222",
                    "139—0000—2222",
                    "1390-000-2222",
                    "1 3 9 0 0 0 0 2 2 2 2",
                    "139\u{200b}00002222",
                    "一三九零零零零二二二二",
                    "打客服 13800001111 或 13900002222",
                ][..],
            ),
            (
                "privacy.bank_card",
                &["卡号4111111111111111 50元", "1 4111111111111111", "4111-1111-1111-1111"],
            ),
            (
                "privacy.id_card",
                &[
                    "编号1 11010519491231002X",
                    "13800001111 11010519491231002X",
                    "110105 1949 1231 002X",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(rules(text), [rule], "{text}");
            }
        }
        for text in
            ["价格139.00 199.00 1元起", "共1390000.22元", "单号8613900002222002", "版本1.3.9"]
        {
            assert!(rules(text).is_empty(), "{text}: {:?}", rules(text));
        }
    }

    #[test]
    fn only_listed_hosts_may_be_linked() {
        assert!(rules("见https://help.example.com/a?b=1。").is_empty());
        for text in [
            "见https://example.com.evil.net/",
            "见http://notexample.com",
            "见http://example.com@evil.net/",
            "见evil.cn",
            "见evil\u{200b}.cn",
            "打开bit.ly/x",
            "打开evil.shop",
            "weixin://dl/business",
            "example.com.evil.shop",
            "example.com@evil.shop",
            "https://example.com:80@evil.shop/",
            "evil.photography/a",
            "evil[.]com",
            "evil点com",
            "https://例子.cn",
        ] {
            assert_eq!(rules(text), ["links.off_list"], "{text}");
        }
    }

    #[test]
    fn numbers_and_files_are_no_hosts() {
        for text in [
            "版本v1.2.3，接口3.5mm，重2.5kg，长5.cm",
            "请下载说明.pdf或manual.pdf",
            "用Node.js打开readme.md",
            "help.example.com/a，www.example.com，a.b@example.com",
            "e.g. No.1234 at 9 a.m.",
        ] {
            assert!(rules(text).is_empty(), "{text}: {:?}", rules(text));
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
