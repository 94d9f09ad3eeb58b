<?xml version="1.0" encoding="UTF-8"?>
<!--
  What all pages share: the frame, times, sizes, and which links may be followed.

  All links of a page are relative, so that it works behind any path prefix; `root` leads from it to the list of
  services. Those to a job begin with "./" or "../", so that no id can be taken for a URL scheme.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform">

  <xsl:output method="html" encoding="UTF-8" doctype-system="about:legacy-compat" indent="no"/>
  <xsl:strip-space elements="*"/>

  <!-- `live` is where the page hears of changes, if there are any to come. -->
  <xsl:template name="page">
    <xsl:param name="title"/>
    <xsl:param name="root"/>
    <xsl:param name="crumbs"/>
    <xsl:param name="main"/>
    <xsl:param name="live"/>
    <html lang="en">
      <head>
        <meta name="viewport" content="width=device-width, initial-scale=1"/>
        <meta name="color-scheme" content="light dark"/>
        <title><xsl:value-of select="$title"/></title>
        <link rel="stylesheet" href="{$root}static/uws.css"/>
        <link rel="icon" href="{$root}static/uws.svg"/>
        <script src="{$root}static/uws.js" defer="defer"></script>
      </head>
      <body>
        <xsl:if test="$live != ''">
          <xsl:attribute name="data-live"><xsl:value-of select="$live"/></xsl:attribute>
        </xsl:if>
        <a class="skip" href="#main">Skip to the content</a>
        <header>
          <nav aria-label="Breadcrumb">
            <ol>
              <li><a href="{$root}">Services</a></li>
              <xsl:copy-of select="$crumbs"/>
            </ol>
          </nav>
          <a href="{$root}login">Who you are</a>
        </header>
        <main id="main" tabindex="-1"><xsl:copy-of select="$main"/></main>
      </body>
    </html>
  </xsl:template>

  <!-- A time of UTC; the script shows it in the reader's zone. -->
  <xsl:template name="time">
    <xsl:param name="of" select="."/>
    <time datetime="{$of}"><xsl:value-of select="concat(translate(substring($of, 1, 19), 'T', ' '), ' UTC')"/></time>
  </xsl:template>

  <xsl:template name="size">
    <xsl:param name="of" select="."/>
    <xsl:choose>
      <xsl:when test="$of &lt; 1000"><xsl:value-of select="concat($of, ' B')"/></xsl:when>
      <xsl:when test="$of &lt; 1000000"><xsl:value-of select="concat(format-number($of div 1000, '0.0'), ' kB')"/></xsl:when>
      <xsl:when test="$of &lt; 1000000000"><xsl:value-of select="concat(format-number($of div 1000000, '0.0'), ' MB')"/></xsl:when>
      <xsl:otherwise><xsl:value-of select="concat(format-number($of div 1000000000, '0.0'), ' GB')"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- Seconds, as people say them. -->
  <xsl:template name="duration">
    <xsl:param name="of" select="."/>
    <xsl:choose>
      <xsl:when test="$of &gt; 0 and $of mod 86400 = 0"><xsl:value-of select="concat($of div 86400, ' d')"/></xsl:when>
      <xsl:when test="$of &gt; 0 and $of mod 3600 = 0"><xsl:value-of select="concat($of div 3600, ' h')"/></xsl:when>
      <xsl:when test="$of &gt; 0 and $of mod 60 = 0"><xsl:value-of select="concat($of div 60, ' min')"/></xsl:when>
      <xsl:otherwise><xsl:value-of select="concat($of, ' s')"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- A reference, or nothing if a browser could take it for something to execute. -->
  <xsl:template name="safe-url">
    <xsl:param name="url"/>
    <xsl:if test="starts-with($url, 'http://') or starts-with($url, 'https://') or starts-with($url, '/')">
      <xsl:value-of select="$url"/>
    </xsl:if>
  </xsl:template>

  <xsl:template name="link">
    <xsl:param name="text"/>
    <xsl:param name="url"/>
    <xsl:variable name="safe">
      <xsl:call-template name="safe-url"><xsl:with-param name="url" select="$url"/></xsl:call-template>
    </xsl:variable>
    <xsl:choose>
      <xsl:when test="$safe != ''"><a href="{$safe}"><xsl:value-of select="$text"/></a></xsl:when>
      <xsl:otherwise><xsl:value-of select="$text"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- What is on a page of its own, and is fetched into this one when it is opened. -->
  <xsl:template name="unfolding">
    <xsl:param name="url"/>
    <xsl:param name="text"/>
    <details data-include="{$url}">
      <summary><xsl:value-of select="$text"/></summary>
      <p><a href="{$url}"><xsl:value-of select="concat($text, ', as a page')"/></a></p>
    </details>
  </xsl:template>

</xsl:stylesheet>
