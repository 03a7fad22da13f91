"""Split Arrow columns at the word boundaries of Unicode (UAX #29), with array operations on all characters at once.

The rules are those of UAX #29, revision 47 (Unicode 17). Each code point has one class, looked up in a table of this
module, so tokens do not depend on what is installed. `python -m tests.campaigns.word_breaks --table` prints the table.
"""

import base64
import functools
import zlib

import numpy as np
import pyarrow as pa

from .text import TOKEN_LISTS, text_bytes

CLASSES = (
    "Other", "Invisible", "CR", "LF", "Newline", "WSegSpace", "Extend", "ZWJ", "Format", "Katakana", "Hebrew_Letter",
    "ALetter", "Single_Quote", "Double_Quote", "MidNumLet", "MidLetter", "MidNum", "Numeric", "ExtendNumLet",
    "Regional_Indicator", "Pictographic", "Pictographic_ALetter",
)  # fmt: skip
_TABLE = (
    "c-o~|&5vV85$}G_^XwVVE}JlDmk@|IA!c{Yek2-"
    "@h;ncwWRg4uG08+6F$YF~Pr%&q$pU<ewA_8N0AKS5JUGn7C!{%W^aV?ikL(?~x_;%V*YQly=J3?+ud3?$uJSwHx!0U?KMdci;d>`@?)5Ns!uK$I<"
    "M4eK;}fhu!gvzyKF0bid}Yq(-o(Dl{~o??hwtZM?!ukpF!aLL58pk<^9pNp@3Hya1ME%4^G(iU`)$5cHk>PNI=2v<fI9_UJp-HIjtpEHr+_;;!1w"
    "}>>+mg)`1i8G<HFpHH108u5%@FT<NYqq4U+K;wEP-;`ICV)41D<~_J4vmoO!-SJQ@<70Dqn_-"
    ")a2~Ba;$%M~6z|8fR#JfiptO1apEl0zSI4@(ODi=se4@*JgSmKRw^;1-"
    "^8>^8AV6PaiO7TxN`q*1LdlhWVV%g#BL5Ys8n4XPLJl>kZKfJ&5=MABvpc)(tc)3xzkx^zEhR_x7Fgtex@M_}lYdY3LMu@{S>NN!}x{`%YmCZqn^"
    "8-cSO@$kl0xxV-9L*T9InX72BzsoXL4jn2(+-_kb3{t9oAx2-_a0CaYtheAuw>l-"
    "@P(6UJQQ+U;P8B_hL$p!qlaP@m%B%iDB?~>2V@a8Jn2wz;LutX+9!-"
    "py6W#UUpvo7bO{&@HY%+HJs_KlC~8rvco=HP*qf%rkv<Mhp)1oq0<`zX<uR0b|nyX;(pxAa%@{3`sj1b@nN@i$`+Kat=jKRdVvPtV{GJx^szHn&X"
    "fmKn=K{7lc+{ny6W&e-Uu*c$11CGh2~O||JY-X!)w=T-;0Pri)oZEfOd)qtI33{T(>z2dc_*t*DT+TgWGrm<&XV#%bz_7?9R>N&z8{2%YI-"
    "8FbY`!hP{m4*|qx-"
    "79$WFovAAvP}Vs}1!NUu)NUd&#`<|J~b&44d`!QA>S+Yq0&0&Myx@x7g|jz=u4Da+s)F`><)x`c)#P5iduGDI}v3awA?Y5<RAM7w9OA47PUAU>Nr"
    "dPb<XT6=XO-zSA}QUA9=aB`=!5*G!=E(Y9|n_Zy0-4Yp(QE1kff0qC3OYRe}^rz`S<E%w=TXA@-7%~;olLU+b`JVxB0oMG-Yx0r@I7uYA=Bz<$BO"
    "MK)B_WCCFlfLw^?@Y|5{AVip3C7aI;Fveu2|NyTFJD#Jif-C@+t+m{9XH_1qS&1mY<**rCrAum_`2_tbN>$C-"
    "SGVaBfa4};d>W3#E+39JOaGO$j|?R+<J^0n)W^f%qPHkjJt1Qd>!`)|GVbBGq3TOblnx4OLY(j#>RF_Uw`+);JS`~l55cY@0q-"
    "OW?;m#8QVMA&n0L&rSTz;^4{tQID=fyq37pB(`}Bigkuxl;O_9fKJImdUqR=ef~HUHy3_I0%*U?2-"
    "%0j|W;})L&hb7ue~kH4`0&#m@Z=oj!8JNE=0_(vFZgB&-"
    "DBDJx^MB#5_|%0oauSN_w*V*^j)2<e)8Uqsp%}ADx;sLkn`~lJRLJXH*<Lx>FT+WUzLpGM}YqW=m*|6ERy$pE$HFPOxF}Xq=dd*70235_Qzs7UCE"
    "8S`iJKoDK4z`kb}O(wktL=ZgBoVbpKWAZQ)CsW5avk^{?6t?~hJ>Y0P8WY-"
    "{ZX^Kd`>UcH#eEUbTq^ZVhv`|}OA_$0t3e+r+xxQo0g)0&2Kh~mRUVx3nX8uOC_<TDg=U($C~@IPIXzlndBST&Z~gnWO&@`<sq;CfHuT!s2iVtFs"
    "Ajboh2IUnl_e8i?juKCRdF{^@)wE36C)x)`tSK8ZY&55|)FEnpEGxf>L<mfT~&p8IpoyNa`)BLp-"
    "&)jakE1UJYX>?O_P)l3X`}4i{e&R)x3GsK>h_E7GK;r|@_dekKO-A5+fbsowB>gyKK8zl+PirF=qq^PgX?;{6AAc-"
    ")Gv*ZIT;R)Zcl4m1;Cw&V{><i<_Lf#S`@H=tlKXy>`L=<M?2?1XY8=k|68NTG;lw;JtJkd?=;4w^;?GwC9WBl`+zZgRTdJER8}T`-"
    "ob8z6_!2oP`K-C*g~(l`9%$RTE%1E#)kF_)ZhL-"
    "@<C)mo$ScjeYVhm!V{QaEn=b3@5_U^;k!+<lE5%oN&Xt#@MvghfULEeXRs+1PFD9P1>OAioyd;wfvZ0!b{Cb6RgxA)>Vy6?6(@0LY$hEEzKSlM0$"
    "SjTxQ=h>fQVv7<Z)qZ0XQ&~n8-a#UbF9LdQNimn#yr|-"
    "9$gvVHbkF6YWDss%F}`APdMWz=T2qPfgQ$odF^Y_9@UVfcT)S19xcd5bLIOP^5r$oo_NjCrH1dIUR>-k%s%>*!au_MhR8kFK2-"
    "%i)B7(>O)arxVES;QhSpbtlkT<)zB>iJiIMS%ujjBNw-P)dIwoHGG!j#)=I&b5+Cqt%F~&#K1oEEAbM(48uHFwxdtGTyX=dt2Tg%U-"
    "W=;AY+rF2{fx5oluk4!si}W3PrXMsz9GvB>4}(l|f03EQe2RG_7pe_yPi?E;N6fpm>6@$oFTSb4_q&<;grV1dO6;5ade4)1^GU{a@EY{Q^*iiiXl"
    "-`Lv5MAbnaZe_)Q>_l^^q=IJ<d)NzDRE%;%X^Os$14ZK2{H7?vvxbXWuMmCZ_M~q_^%lS1SxZVvl`a>$}+j=LD|Jy_J>CYa~`QG;b(Oy?7!%8@}%"
    "Xx*BbA|MNP#MD9A=@!!bWywUozWdft!P`@@vbk53@WH&Z*;d}K>_OH^j85q3MrzsnC+n9OvU&OD7E4;7#U4TcraTEVdeci;iyWaH<nNRJ2td(i6V"
    "vU~6=s%wCg@V8H(>(HVfLyxzSHSZl_>0{11!=xtp9}xRj>!hrc;D3M8O_O0&ya(-"
    "@3Ze68l5LSr?}P2)$fk?xbHQ#ecpm;n}BZ=E6Y?@!Qbk?%~*rb-e(x!!+4)~`C6z|FsGV^@ZCpEK=ajy-"
    "i>a+f1zL0ll~j#q6>eZ`=OwT?+FjMK&`T-_r49gYibXk^s(i&7Ffd%#s24u+Rr<KUJi`kBR<9Vh2(L8{|z^-dVjs=>i%3}!ZhhQZDU8P-"
    "mh#YdDJwo$CgFXi;{DT2O6*JxcQQE@lz)S6G(axd(VaXpGw9|ZIyJM{^%@k@%{!i=BUuVcQ;cRr1l+i*(TQyk@q)Mch`7#Kgk0+_t-YN=q*iAmqy"
    ")qi+Q=7zr<(7A4Fe&N8dk6;{C?-)Wv7TeClN*EBE<4Kg#Bg>GxCJ(^CJp^;u6%j+xitr14qe_H;-8t#b7~-md=K$XyTri^lZcG|}m)+fCm#-"
    "^l9y(XCEr>>#Kgv1)KHivFvh9@;AD9aYln3g=Ee_cdy{eHcH6-F*z)wx30JsCV%!-"
    "1`Xpe&)4zI5s`GW3Rn2@~O`<hX3?7?;qXNUR(#gE1I9<KZbMDTO-}Rd<FQL+WVyW5prJX-5vRQ&o}MOog!A*UZ2BUdSo-"
    ";AEQSpy~_TMp4(NuyUPRS?`4bO9l<9YXL_!K-XN`iN_2lCjHnTaZr8*;yqD^Knv?I9Ua!3G60z%9gV&#-"
    "jyZ)Kj&F1Ra)e&ZY4F?bTN)oPe@}Fc{XO{h;*kFfDZ&}|kDs~!0b!Ix!T"
)


def _class_set(*names: str) -> np.ndarray:
    """Return bool[256]: which classes are among the names."""
    return np.isin(np.arange(256), [CLASSES.index(name) for name in names])


_ZWJ, _HEBREW, _DOUBLE_QUOTE, _REGIONAL = (
    CLASSES.index(name) for name in ("ZWJ", "Hebrew_Letter", "Double_Quote", "Regional_Indicator")
)
_LETTER = _class_set("ALetter", "Pictographic_ALetter", "Hebrew_Letter")
_NUMBER = _class_set("Numeric")
_LINE_END = _class_set("CR", "LF", "Newline")
_MARK = _class_set("Extend", "ZWJ", "Format")  # belongs to the character before it
_BETWEEN_LETTERS = _class_set("MidLetter", "MidNumLet", "Single_Quote")
_BETWEEN_NUMBERS = _class_set("MidNum", "MidNumLet", "Single_Quote")
_BETWEEN = _BETWEEN_LETTERS | _BETWEEN_NUMBERS | _class_set("Double_Quote")
_MAY_JOIN = 0x80
_PICTOGRAPHIC = _class_set("Pictographic", "Pictographic_ALetter")
_NO_TOKEN = _class_set("Invisible", "CR", "LF", "Newline", "WSegSpace", "Format", "ZWJ")


def _side_bits() -> tuple[bytes, bytes]:
    """Return uint8[256] twice: for the left and the right one of two neighbours, in which rules their classes stand.

    If they have a bit in common, no boundary parts them, whatever stands around them. `_MAY_JOIN` marks those that can
    stand inside a word or number.
    """
    word, katakana, connector = _LETTER | _NUMBER, _class_set("Katakana"), _class_set("ExtendNumLet")
    rules = (
        (word, word),  # WB5, WB8, WB9, WB10
        (_class_set("Hebrew_Letter"), _class_set("Single_Quote")),  # WB7a
        (katakana, katakana),  # WB13
        (word | katakana | connector, connector),  # WB13a
        (connector, word | katakana),  # WB13b
    )
    left, right = (sum(rule[side].astype(np.uint8) << bit for bit, rule in enumerate(rules)) for side in (0, 1))
    return left.tobytes(), (right | np.where(_BETWEEN, _MAY_JOIN, 0).astype(np.uint8)).tobytes()


_LEFT_BITS, _RIGHT_BITS = _side_bits()


@functools.cache
def class_table() -> np.ndarray:
    """Return the class of each code point, uint8[0x110000], as positions in `CLASSES`."""
    runs = np.frombuffer(zlib.decompress(base64.b85decode(_TABLE)), "<u4")  # each is a length * 32 + a class
    return np.repeat((runs & 31).astype(np.uint8), runs >> 5)


_ASCII_NO_TOKEN = bytes(np.flatnonzero(_NO_TOKEN[class_table()[:128]]).astype(np.uint8))


def split_words(texts: pa.Array) -> pa.Array:
    """Return the segments between the word boundaries of texts, without those of white space and invisible characters.

    Args:
        texts: large_string, no nulls.
    """
    return _split_segments(texts, words=True)


def split_characters(texts: pa.Array) -> pa.Array:
    """Return the characters of texts, each with the marks that belong to it, without white space.

    Args:
        texts: large_string, no nulls.
    """
    return _split_segments(texts, words=False)


def _split_segments(texts: pa.Array, *, words: bool) -> pa.Array:
    data, offsets = text_bytes(texts)
    if not len(data):
        return pa.array([[]] * len(texts), TOKEN_LISTS)
    classes = _find_classes(data)
    first = np.zeros(len(data), bool)
    first[offsets[offsets < len(data)]] = True
    bases = _find_bases(data, classes, first)
    base, base_first = classes[bases], first[bases]
    joined = _join_words(base, base_first) if words else np.zeros(len(base), bool)
    if base.max() >= _REGIONAL:
        before = np.roll(classes, 1)[bases]
        _join_emoji(joined, base, base_first, before)
    starts = np.flatnonzero(~joined)
    kept = ~_translate(base[starts], _NO_TOKEN.tobytes()).view(bool)
    if not isinstance(bases, slice):
        starts = np.flatnonzero(bases)[starts]
    return _gather_tokens(data, offsets, np.append(starts, len(data)), kept)


def _gather_tokens(data: np.ndarray, offsets: np.ndarray, edges: np.ndarray, kept: np.ndarray) -> pa.Array:
    """Return the kept ones of segments, which lie between edges in the bytes of all texts, as lists by text."""
    sizes, starts = np.diff(edges), edges[:-1][kept]
    ends = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(sizes[kept], out=ends[1:])
    if len(data) - ends[-1] == len(sizes) - len(starts):  # only single bytes are dropped, such as spaces
        letters = data.tobytes().translate(None, _ASCII_NO_TOKEN)
    else:
        letters = data[np.repeat(kept, sizes)]
    tokens = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(ends), pa.py_buffer(letters))
    return pa.LargeListArray.from_arrays(pa.array(np.searchsorted(starts, offsets)), tokens)


def _translate(values: np.ndarray, table: bytes) -> np.ndarray:
    """Return the entries of a table of 256 bytes for uint8 values; faster than an index."""
    return np.frombuffer(values.tobytes().translate(table), np.uint8)


def _find_classes(data: np.ndarray) -> np.ndarray:
    """Return for each byte of a text the class of its character."""
    table = class_table()
    classes = _translate(data, table[:256].tobytes())
    high = data >= 0x80
    if high.any():
        codes = np.frombuffer(data[high].tobytes().decode().encode("utf-32-le"), "<u4")
        sizes = 2 + (codes >= 0x800).astype(np.uint8) + (codes >= 0x10000)
        classes = classes.copy()
        classes[high] = np.repeat(table[codes], sizes)
    return classes


def _find_bases(data: np.ndarray, classes: np.ndarray, first: np.ndarray) -> np.ndarray | slice:
    """Return the bytes at which characters begin, but no marks that belong to the character before them (WB4)."""
    high = np.flatnonzero(data >= 0x80)
    if not len(high):
        return slice(None)
    begins = (data[high] & 0x40) > 0
    mark = begins & _MARK[classes[high]] & ~first[high] & ~_LINE_END[classes[high - 1]]
    bases = np.ones(len(data), bool)
    bases[high] = begins & ~mark
    return bases


def _join_emoji(joined: np.ndarray, base: np.ndarray, first: np.ndarray, before: np.ndarray) -> None:
    """Join emoji after a joiner (WB3c) and the pairs of letters of flags (WB15, WB16) to the base before them.

    An emoji after white space and a joiner begins a segment of its own, unlike in WB3c, so that it is not lost.

    Args:
        joined: bool[bases], is changed.
        base: the class of each base.
        first: whether a base begins a text.
        before: the class of the character right before each base.
    """
    emoji = np.flatnonzero(_PICTOGRAPHIC[base] & ~first)
    joined[emoji] |= (before[emoji] == _ZWJ) & ~_NO_TOKEN[base[emoji - 1]]
    flags = np.flatnonzero(base == _REGIONAL)
    begins = np.ones(len(flags), bool)  # a run of these letters
    begins[1:] = (np.diff(flags) > 1) | first[flags[1:]]
    in_run = np.arange(len(flags)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    joined[flags] = in_run % 2 == 1


def _join_words(base: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return bool[bases]: which are one word with the base before them."""
    joined = np.zeros(len(base), bool)
    right_bits = _translate(base, _RIGHT_BITS)
    joined[1:] = (_translate(base, _LEFT_BITS)[:-1] & right_bits[1:]) > 0
    joined &= ~first
    middle = np.flatnonzero(right_bits[1:-1] & _MAY_JOIN) + 1
    middle = middle[~first[middle] & ~first[middle + 1]]
    left, mark, right = base[middle - 1], base[middle], base[middle + 1]
    within = _BETWEEN_LETTERS[mark] & _LETTER[left] & _LETTER[right]  # WB6, WB7
    within |= _BETWEEN_NUMBERS[mark] & _NUMBER[left] & _NUMBER[right]  # WB11, WB12
    within |= (mark == _DOUBLE_QUOTE) & (left == _HEBREW) & (right == _HEBREW)  # WB7b, WB7c
    joined[middle[within]] = joined[middle[within] + 1] = True
    return joined
