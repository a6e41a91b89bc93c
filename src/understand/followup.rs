//! Follow-up questions made to stand alone with the conversation before them, by rules.

use std::sync::LazyLock;

use regex::Regex;

use crate::base::limits;
use crate::base::text::{is_han, prefix_chars};
use crate::domain::message::{Role, Utterance};

/// A topic longer than this is a story; it is put before the message instead of into it.
const TOPIC_CHARS: usize = 14;

/// What to search with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standalone {
    pub text: String,
    pub rewritten: bool,
    /// Which rule made it (`followup.pronoun`).
    pub rule: Option<&'static str>,
}

impl Standalone {
    fn untouched(text: &str) -> Self {
        Self { text: text.to_owned(), rewritten: false, rule: None }
    }

    fn made(text: String, rule: &'static str) -> Self {
        Self { text, rewritten: true, rule: Some(rule) }
    }
}

macro_rules! pattern {
    ($name:ident = $pattern:expr) => {
        static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($pattern).expect("a constant expression"));
    };
}

// What opens a message without being part of the question.
pattern!(
    FILLER = r"^(?:(?:请问一?下?|你好|您好|亲|嗯+|哦+|噢|喔|好的|好吧|ok\b|额|呃|哎|唉|是的|对了|(?:好|行|对|啊)[,，。\s]|明白了?|知道了|谢谢|那个[,，]|我想问一?下?|想问一?下?|问一?下|再问一?下?|麻烦问一?下?|咨询一?下?|那请问)[,，。.!！~\s]*)+"
);
pattern!(
    MARKER = r"^(?:那么|那|然后|还有|另外|以及|并且|而且|但是|但|可是|不过|所以|还是|如果|要是|and|then|so|but|what about|how about|what if)[,，\s]*"
);
pattern!(TAIL = r"[?？。.!！~～,，、\s]+$");
pattern!(
    NEW_OBJECT = r"^(?:那么?|然后|还有|另外)?[,，\s]*(?:如果是?|要是|换成|换了|那)?(?P<x>[^,，。?？!！]{1,10}?)(?:的话)?(?:呢|的呢|又呢|怎么样呢|也(?:可以|能|行|支持|一样|是|要|有|算)(?:的|这样|退)?(?:吗|么))[?？。.!！~\s]*$|^(?i:(?:and )?(?:what|how) about) (?:the |a |an )?(?P<y>[a-z0-9 ]{2,30})\W*$"
);
// Words that hold a pronoun without being one come first, so that they win.
pattern!(
    PRONOUN = r"[我你您他她它到在]这|其[他它]|吉他|他[人行乡国]|维他|这[个]?(?:里|边|儿|么|些天|几天|两天|次|时候|月|周|星期|礼拜|年|天|阵子|会儿|期|样)|那[个]?(?:里|边|儿|么|些天|几天|时候|月|天|年|样|阵子|会儿|就|我|你|要|怎|为|如|能|可|是|有|会|还)|(?P<p>它们?|他们?|她们?|(?:这|那)(?:(?:一?个|款|种|件|双|台|套|张|本|部|首|家|项|笔|条|些)(?:人|家伙|东西|游戏|电影|电视剧|书|歌|剧|动漫|小说|产品|商品|活动|业务|功能|服务|套餐|卡|券)?|(?:人|家伙|东西|游戏|电影|电视剧|书|歌|剧|动漫|小说|产品|商品|活动|业务|功能|服务|套餐|卡|券))|这(?:怎|要|能|可|是|有|会|多|好|为|需|算|还|支持|什么)|\b(?:it|they|them|this one|that one)\b)"
);
pattern!(PRONOUN_VERB = r"^这(?P<v>怎|要|能|可|是|有|会|多|好|为|需|算|还|支持|什么)$");
// Frames, function words, bare verbs and attributes: a message of nothing else asks about
// something that was named before.
// Matters that name a topic although their characters are also frames (还款) or bare verbs.
pattern!(
    TOPICAL = r"还款|还钱|还贷|借款|借钱|贷款|退款|退货|换货|退换|付款|扣款|提现|取现|充值|转账|提额|发票|运费|快递|物流|订单|优惠券|红包|积分|会员|额度|账单|密码|注册|注销|登[录陆]|实名|认证|客服|投诉|保修|维修|售后|尺码|库存|发货|签收|逾期|征信|保险|理赔|分期|利率|银行卡|手机号"
);
pattern!(
    FRAME = r"怎么(?:样|办|弄|回事|操作|还|才能|能|会|可以)?|怎样|如何|咋样?|为什么|为啥|什么时候|什么|啥时候?|哪些?(?:里|儿|个|种|家)?|在哪|多少钱?|多久|多长时间|多长|多大|几(?:天|个|点|次|小时|个月|号|年|块|分钟|工作日)?|什么样|谁|是不是|能不能|可不可以|会不会|有没有|要不要|需不需要|行不行|好不好|可以|能够?|需要?|应该|必须|要|会|有|是|在|到底|大概|一般|现在|今天|明天|一定|真的?|也|都|还|就|才|再|又|先|后|已经|一下|一个|一直|吗|么|嘛|呢|吧|啊|呀|哦|了|的|得|地|过|着|我们?|你们?|您|他们?|她|它|这个?|那个?|这样|那样|自己|不|没有?|别|很|太|好|对|和|跟|给|把|被|从|到|让|用|想|去|来|里|上|下|以|为|请|帮|哪|最|最快|最晚|最多|最少|最高|最低|直接|另外|重新|提前|免费|收费|[\s\pP\pS]"
);
pattern!(
    BARE = r"取消|开通|关门|开门|办理?|弄|操作|申请|查询?|看|找|开始?|关闭?|修改|更改|改|设置|处理|提交|解除|解决|恢复|生效|到账?|收到?|发|寄|拿|领取?|使用|激活|绑定?|解绑|通过|成功|失败|行|安全|靠谱|合适|划算|快|慢|贵|便宜|好用|手续费|利息|费用|收费|条件|材料|资料|证件|流程|步骤|时间|期限|次数|限制|金额|价格|方式|方法|地方|地址|电话|原因|区别|影响|优惠|要求|结果|进度|钱|买|选|填|写|说|问|知道|算|做|等|换|退|加|减|交|付|联系|推荐|喜欢|认识|看过|听过|玩|吃|喝|学|去过|觉得|支持|适合|包括|包含"
);
// What a question asks around its topic.
pattern!(
    ASKING = r"怎么(?:样|办|弄|回事|操作|才能)?|怎样|如何|咋样?|为什么|为啥|什么时候(?:能|可以|会)?|是什么(?:意思)?|什么意思|什么|啥|在哪(?:里|儿)?|哪里|哪儿|哪些?(?:个|种|家)?|是?多少钱?|(?:要|需要|得)?(?:多久|多长时间|几(?:天|个月|小时|个工作日|年|分钟))(?:到账|能到|到|可以|才)?|是谁(?:的|写的)?|谁是|是不是|能不能|可不可以|会不会|有没有|要不要|可以|能否|可否|吗|么|嘛|呢|吧|啊|呀|[?？。.!！~～,，、]"
);
pattern!(
    ASKER = r"^(?:请问|我(?:们)?(?:想|要|需要|打算|准备|可以|能)?(?:问|咨询|了解|知道|看看|买|办|查|找|去)?(?:一下|下|的)?|你们?(?:有没有|有|这|那|家|平时|最|都|能|会|会不会|可以)?(?:听说过?|知道|认识|喜欢|看过|听过|了解|觉得|见过|去过|玩过|吃过|爱)?|想(?:要|去|买|看|问|吃)?|听说过?|知道|认识|喜欢|看过|最近|话说|关于|有(?:没有)?|是不是|能不能|能否|可否|可以|能)+"
);
pattern!(MODAL = "能|可以|支持|会|需要|要|算|有");
pattern!(
    DOING = r"^(?:开通|办理?|申请|购买|买|取消|查询?|修改|更改|关闭|使用|注销|退|换|领取?|看|找)(?P<rest>.{2,})$"
);

/// Makes `text` a question that can be searched for without what was said before.
///
/// Leaves a message alone that has a topic of its own, or nothing to lean on.
pub fn standalone(text: &str, context: &[Utterance]) -> Standalone {
    let recent = &context[context.len().saturating_sub(limits::CONTEXT_TURNS)..];
    resolve(text, recent)
}

/// True when nothing is left besides question words and particles (“可以吗”, “为什么”).
pub fn is_empty(text: &str) -> bool {
    let core = core_of(text);
    !is_latin(&core) && FRAME.replace_all(&core, "").is_empty()
}

fn resolve(text: &str, context: &[Utterance]) -> Standalone {
    let core = core_of(text);
    if core.is_empty() {
        return Standalone::untouched(text);
    }
    let Some(previous) = previous_question(context) else { return Standalone::untouched(text) };
    new_object(&core, &previous)
        .or_else(|| pronoun(&core, &previous))
        .or_else(|| elided(&core, &previous))
        .unwrap_or_else(|| Standalone::untouched(text))
}

/// What the customer asked last, itself made to stand alone; else what was said last.
fn previous_question(context: &[Utterance]) -> Option<String> {
    let worth = |u: &Utterance| !core_of(&u.text).is_empty();
    let customer = context.iter().rposition(|u| u.role == Role::Customer && worth(u));
    if let Some(at) = customer {
        let resolved =
            resolve(prefix_chars(&context[at].text, limits::QUESTION_CHARS), &context[..at]);
        return Some(core_of(&resolved.text));
    }
    context.iter().rev().find(|u| worth(u)).map(|u| core_of(prefix_chars(&u.text, TOPIC_CHARS * 2)))
}

/// Without greetings before and marks behind.
fn core_of(text: &str) -> String {
    let text = text.trim();
    let body = FILLER.find(text).map_or(text, |filler| &text[filler.end()..]);
    TAIL.replace(body, "").into_owned()
}

/// “X呢”: the last question again, about X.
fn new_object(core: &str, previous: &str) -> Option<Standalone> {
    let captures = NEW_OBJECT.captures(core)?;
    let object = captures.name("x").or_else(|| captures.name("y"))?.as_str().trim();
    let names_something =
        own_content(object) >= 1 || CLASSES.iter().any(|class| class.is_match(object));
    let names_something = names_something && !asks(object);
    if !names_something || PRONOUN.captures(object).is_some_and(|c| c.name("p").is_some()) {
        return None;
    }
    let text = replace_kin(previous, object)
        .or_else(|| replace_subject(previous, object))
        .unwrap_or_else(|| join(previous, object));
    Some(Standalone::made(text, "followup.new_object"))
}

fn asks(text: &str) -> bool {
    ASKING.is_match(text)
}

/// Puts the object where the question names its kin: a member of the same class, or a word of
/// the same length with the same end (退货 → 换货, 普通会员 → 黄金会员).
fn replace_kin(previous: &str, object: &str) -> Option<String> {
    for class in CLASSES.iter() {
        if class.is_match(object)
            && let Some(old) = class.find(previous)
        {
            return Some(format!("{}{object}{}", &previous[..old.start()], &previous[old.end()..]));
        }
    }
    let wanted: Vec<char> = object.chars().collect();
    let chars: Vec<(usize, char)> = previous.char_indices().collect();
    // One shared character makes kin of words of two; longer ones must share two.
    let end = if wanted.len() > 2 { 2 } else { 1 };
    let shared = wanted.get(wanted.len().checked_sub(end)?..).filter(|_| wanted.len() > 1)?;
    let window = chars.windows(wanted.len()).find(|window| {
        let end = window.iter().rev().zip(shared.iter().rev());
        end.clone().all(|((_, old), new)| old == new) && window.iter().all(|(_, c)| is_han(*c))
    })?;
    let start = window.first()?.0;
    let end = window.last().map(|(at, c)| at + c.len_utf8())?;
    Some(format!("{}{object}{}", &previous[..start], &previous[end..]))
}

static CLASSES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        "今天|明天|后天|昨天|今晚|明晚|周[一二三四五六日末]|星期[一二三四五六日天]|周末|节假日|工作日|春节|国庆|元旦|上午|下午|晚上|早上",
        "北京|上海|广州|深圳|杭州|南京|成都|重庆|武汉|西安|天津|苏州|长沙|郑州|青岛|大连|厦门|新疆|西藏|香港|澳门|台湾|海南|云南|广东|浙江|江苏|四川|东北|偏远地区|国外|海外|国内",
        "微信|支付宝|银行卡|信用卡|储蓄卡|花呗|余额|现金",
        "顺丰|中通|圆通|申通|韵达|京东|邮政|极兔|ems",
        "红色|黑色|白色|蓝色|绿色|黄色|粉色|灰色|紫色|棕色|银色|金色",
        r"[大中小]号|\b(?:xxl|xl|xs|l|m|s)(?:码|\b)|\d{2}码",
        "安卓|苹果|android|ios|iphone|华为|小米|电脑|手机|平板",
        r"\d+(?:元|块|天|个月|年|岁|期|件|斤|克|升|瓦|寸|g)",
    ]
    .iter()
    .map(|class| Regex::new(class).expect("a constant expression"))
    .collect()
});

/// Puts the object in the place of what is asked about: “会员费多少钱” → “年卡多少钱”.
///
/// A yes-or-no question gives up its subject only to something that looks like a noun.
fn replace_subject(previous: &str, object: &str) -> Option<String> {
    let frame = ASKING.find(previous).filter(|frame| frame.start() > 0)?;
    let open_question = frame.as_str().chars().count() > 1;
    if open_question {
        return Some(format!("{object}{}", &previous[frame.start()..]));
    }
    let modal = MODAL.find(previous).filter(|modal| modal.start() > 0)?;
    (object.chars().count() > 2).then(|| format!("{object}{}", &previous[modal.start()..]))
}

/// Both, for a search that weighs words.
fn join(previous: &str, rest: &str) -> String {
    let topic = topic_of(previous).unwrap_or_else(|| previous.to_owned());
    let latin = topic.is_ascii() || rest.is_ascii();
    format!("{topic}{}{rest}", if latin { " " } else { "" })
}

/// A pronoun gives way to the topic.
fn pronoun(core: &str, previous: &str) -> Option<Standalone> {
    let found = PRONOUN.captures_iter(core).find_map(|captures| captures.name("p"))?;
    // What it stands for may have been said in the same breath.
    if own_content(&core[..found.start()]) > 3 {
        return None;
    }
    let topic = topic_of(previous)?;
    let verb = PRONOUN_VERB.captures(found.as_str()).and_then(|c| c.name("v"));
    let kept = verb.map_or("", |verb| verb.as_str());
    let before = MARKER.replace(&core[..found.start()], "");
    let text = format!("{before}{topic}{kept}{}", &core[found.end()..]);
    Some(Standalone::made(text, "followup.pronoun"))
}

/// A message without a topic of its own takes the last one.
fn elided(core: &str, previous: &str) -> Option<Standalone> {
    let rest = MARKER.replace(core, "");
    let marked = rest.len() < core.len();
    // “那运费谁出” opens a matter of its own although it leans.
    if own_content(&rest) > if marked { 2 } else { 1 } || rest.is_empty() && !marked {
        return None;
    }
    let text = match topic_of(previous) {
        Some(topic) if rest.contains(&topic) => return None,
        Some(topic) => {
            // “开通会员” + “怎么取消”: the new verb replaces the old one.
            let named = DOING.captures(&topic).and_then(|c| c.name("rest"));
            let kept =
                named.filter(|_| BARE.is_match(&rest)).map_or(topic.as_str(), |m| m.as_str());
            join(kept, &rest)
        }
        None => format!("{previous}{}{rest}", if previous.is_ascii() { " " } else { "，" }),
    };
    Some(Standalone::made(text, if marked { "followup.marker" } else { "followup.elided" }))
}

/// What the question is about: itself without the asking; `None` when too much or nothing is left.
fn topic_of(question: &str) -> Option<String> {
    let body = MARKER.replace(question, "");
    let asked = ASKER.replace(&body, "");
    let topic = ASKING.replace_all(&asked, "").trim().to_owned();
    let topic =
        topic.strip_prefix('的').unwrap_or(&topic).trim_end_matches(['的', '了', '要', '是']);
    let length = topic.chars().count();
    let points_away = PRONOUN.captures_iter(topic).any(|c| c.name("p").is_some());
    ((2..=TOPIC_CHARS).contains(&length) && !points_away).then(|| topic.to_owned())
}

/// How much a text names: two for a topic, a Latin word or a number; one for each other
/// character that is no frame and for each bare verb or attribute. “怎么取消” has one.
fn own_content(text: &str) -> usize {
    let lower = text.to_lowercase();
    if is_latin(&lower) {
        return latin_content(&lower);
    }
    let topics = TOPICAL.find_iter(&lower).count();
    let without = TOPICAL.replace_all(&lower, " ");
    let bare = BARE.find_iter(&without).count();
    let without = BARE.replace_all(&without, " ");
    let without = FRAME.replace_all(&without, " ");
    let mut count = 2 * topics + bare;
    let mut in_word = false;
    for c in without.chars() {
        let latin = c.is_alphanumeric() && !is_han(c);
        count += if is_han(c) { 1 } else { 2 * usize::from(latin && !in_word) };
        in_word = latin;
    }
    count
}

fn is_latin(text: &str) -> bool {
    text.chars().any(char::is_alphabetic) && !text.chars().any(is_han)
}

/// English words that name nothing.
const LATIN_FRAME: &str = " how what when where why who which is are was were do does did can could will would should may might long much many to the a an i you we my your it they them this that one me of for in on at and or so then but about if cancel change get have need take cost work there here any more same also too please ok yes no not be ";

fn latin_content(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !LATIN_FRAME.contains(&format!(" {word} ")))
        .count()
        * 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn customer(text: &str) -> Utterance {
        Utterance { role: Role::Customer, text: text.to_owned() }
    }

    fn agent(text: &str) -> Utterance {
        Utterance { role: Role::Agent, text: text.to_owned() }
    }

    #[test]
    fn leaning_questions_are_made_to_stand() {
        for (previous, text, expected) in [
            ("退货要几天", "那换货呢", "换货要几天"),
            ("顺丰多久能到", "中通呢？", "中通多久能到"),
            ("今天能发货吗", "明天呢", "明天能发货吗"),
            ("会员费多少钱", "那年卡呢", "年卡多少钱"),
            ("充电宝能带上飞机吗", "打火机呢", "打火机能带上飞机吗"),
            ("电影票能退吗", "那改签呢", "电影票能退改签"),
            ("普通会员多少钱", "黄金会员呢", "黄金会员多少钱"),
            ("do you ship to canada", "what about mexico?", "do you ship to canada mexico"),
            ("自动续费是什么", "怎么取消", "自动续费怎么取消"),
            ("怎么开通会员", "怎么取消呢", "会员怎么取消"),
            ("退货怎么弄", "要多久", "退货要多久"),
            ("信用卡怎么还款", "要手续费吗", "信用卡还款要手续费吗"),
            ("请问积分怎么用", "它会过期吗", "积分用会过期吗"),
            ("蓝牙耳机多少钱", "这个支持无线充电吗", "蓝牙耳机支持无线充电吗"),
            (
                "What is the return policy",
                "How long does it take?",
                "What is the return policy How long does it take",
            ),
        ] {
            let found = standalone(text, &[customer(previous), agent("好的，请看说明。")]);
            assert_eq!((found.text.as_str(), found.rewritten), (expected, true), "{text}");
        }
    }

    #[test]
    fn a_question_of_its_own_is_left_alone() {
        let context = [customer("退货要几天"), agent("7天内。")];
        for text in [
            "运费谁出",
            "发票怎么开",
            "怎么修改收货地址，我填错了小区",
            "我想注销账号",
            "这个月的账单什么时候出",
            "How do I change my shipping address?",
            "你好",
        ] {
            let found = standalone(text, &context);
            assert_eq!((found.text.as_str(), found.rewritten), (text, false));
        }
        assert!(!standalone("怎么取消", &[]).rewritten);
    }

    #[test]
    fn a_chain_of_follow_ups_is_followed() {
        let context =
            [customer("退货要几天"), agent("7天。"), customer("那换货呢"), agent("15天。")];
        assert_eq!(standalone("怎么申请", &context).text, "换货怎么申请");
    }

    #[test]
    fn empty_questions_are_known() {
        assert!(is_empty("可以吗"));
        assert!(is_empty("为什么？"));
        assert!(!is_empty("退款"));
        assert!(!is_empty("怎么取消"));
        assert!(!is_empty("how much"));
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_untouched_without_context(text in "\\PC{0,40}|[那这它呢吗怎么退货要几天还有然后]{0,20}", previous in "\\PC{0,30}|[退货要几天怎么吗]{0,12}") {
            let alone = standalone(&text, &[]);
            prop_assert_eq!((alone.text.as_str(), alone.rewritten), (text.as_str(), false));
            let found = standalone(&text, &[customer(&previous)]);
            prop_assert_eq!(found.rewritten, found.rule.is_some());
        }
    }
}
